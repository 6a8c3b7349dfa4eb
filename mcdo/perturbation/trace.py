"""One forward pass of a tower, looked at: every map that it carries out, in order, and every weight that it hides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation.flow import Flow
from mcdo.perturbation.intercept import Compute, LinearMaps
from mcdo.perturbation.roles import Place

_BATCH = 3
"""Inputs of the pass; the first and the last are the same."""

_ROUNDING = 2e-3
"""How far from one rounding takes the norm of a feature that was normalised, in float16 at worst."""


@dataclass
class SeenMap:
    """A map or an attention's probabilities, as seen.

    ``shape`` and ``input_shape`` are for one image; None where the first axis does not hold image after image.
    ``output`` is the whole shape of the output.
    """

    output: tuple[int, ...]
    shape: tuple[int, ...] | None
    input_shape: tuple[int, ...] | None
    place: Place
    calls: int = 1
    registered: bool = True


@dataclass
class Trace:
    """What a pass showed.

    Attributes:
        maps: by site name, in order.
        attentions: probabilities that can be disturbed, by site name, in order.
        keys: site name by (id of the Parameter, part).
        held: these Parameters, so that no id comes to mean another.
        missed: weights that took part in a product that is not watched, with its name in ATen.
        touched: ids of the Parameters that took part in anything.
        feeding: maps whose output is a query, key or value.
        by_hand: for each attention whose probabilities cannot be disturbed, what its operands were made from.
        last: what put out the features.

    """

    maps: dict[str, SeenMap] = field(default_factory=dict)
    attentions: dict[str, SeenMap] = field(default_factory=dict)
    keys: dict[tuple[int, str], str] = field(default_factory=dict)
    held: list[nn.Parameter] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    feeding: set[str] = field(default_factory=set)
    by_hand: list[frozenset[str]] = field(default_factory=list)
    last: frozenset[str] = frozenset()


def trace(encoder: Encoder, site_name: Callable[[str, str], str]) -> Trace:
    """Carry out one pass of three inputs, of which two are the same, and note what happens.

    Args:
        encoder: whose image tower is looked at.
        site_name: name of a site, from the name of its weight and its part.

    Raises:
        McdoError: if the features are not finite, or of one norm whatever the input; or for an attention of a kind that
            is not handled.

    """
    model = encoder.model
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    listed = dict(model.named_parameters(remove_duplicate=False))  # once: some adapters make new ones at each listing
    names = {id(p): name for name, p in listed.items()}
    parameters = {name: listed[name] for name in names.values()}
    flow = Flow(parameters, buffers)
    tracer = _Tracer(flow, names, site_name)
    try:
        with torch.inference_mode(False), torch.no_grad(), flow:  # in inference mode fewer operations are taken apart
            inputs = encoder.calibration_inputs(2)[[0, 1, 0]]
            flow.enter(inputs)
            with tracer:
                features = encoder.forward_image(inputs, exact=True)
            last = flow.of(features).nearest
            flow.finish()
    except NotImplementedError as error:
        raise McdoError(f"{encoder.key}: this tower has {error}, which is not handled") from error
    _check_features(encoder, features)
    seen = tracer.seen
    seen.touched = {id(parameters[name]) for name in flow.touched & parameters.keys()}
    seen.missed, seen.feeding, seen.last = flow.missed, flow.feeding, last
    seen.by_hand += flow.by_hand.values()
    return seen


class _Tracer(LinearMaps):
    """Notes every map that a pass carries out, and leaves it as it is."""

    def __init__(self, flow: Flow, names: dict[int, str], site_name: Callable[[str, str], str]) -> None:
        super().__init__(self._note, probabilities=self._note_probabilities)
        self.seen = Trace()
        self._flow, self._names, self._site_name = flow, names, site_name

    def _note(self, weight: nn.Parameter, part: str, compute: Compute) -> Tensor:
        registered = id(weight) in self._names
        parameter = self._names.get(id(weight), f"parameter of shape {tuple(weight.shape)} outside the model")
        name, inputs = self._site_name(parameter, part), []

        def look(x: Tensor) -> Tensor:
            inputs.append(x)
            return x

        with self._flow.watching(weight):
            y = compute(before=look)
        trail = self._flow.of(inputs[0])
        image = trail.image or _sees(y)
        if name in self.seen.maps:
            self.seen.maps[name].calls += 1
        else:
            place = Place(image, trail.raw, trail.nearest, trail.bent, convolution=weight.dim() > 2)
            shape, input_shape = (_per_image(z, image) for z in (y, inputs[0]))
            self.seen.maps[name] = SeenMap(tuple(y.shape), shape, input_shape, place, registered=registered)
            self.seen.keys[id(weight), part] = name
            self.seen.held.append(weight)
        self._flow.put_out(y, name, (inputs[0], weight), image)
        return y

    def _note_probabilities(self, probabilities: Tensor) -> Tensor:
        # named after the module whose projections were carried out last
        name = f"{next(reversed(self.seen.maps), '').rpartition('.')[0]}.probabilities"
        if name in self.seen.attentions:
            name = f"{name}.{len(self.seen.attentions)}"
        image = self._flow.of(probabilities).image
        shape, place = _per_image(probabilities, image), Place(image, False, frozenset(), False, False)
        self.seen.attentions[name] = SeenMap(tuple(probabilities.shape), shape, None, place)
        return probabilities

    def _scaled_dot_product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        operands = query, key, value
        image = any(self._flow.of(operand).image for operand in operands)
        with self._flow.attention(*operands) as name:
            if enable_gqa or dropout_p:
                self.seen.by_hand.append(frozenset().union(*(self._flow.of(x).nearest for x in operands)))
                y = F.scaled_dot_product_attention(
                    *operands, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
                )
            else:
                y = super()._scaled_dot_product(*operands, attn_mask, dropout_p, is_causal, scale)
        self._flow.put_out(y, name, operands, image)
        return y


def _distances(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far the numbers of the other and of the last input are from the first's, and what rounding makes of that."""
    first, other, again = x.detach().reshape(_BATCH, -1).float()
    return (other - first).abs().amax(), (again - first).abs().amax(), 1e-6 * first.abs().amax()


def _sees(x: Tensor) -> bool:
    """Whether numbers say that they depend on the input: those of the first and last agree, the other's do not."""
    if x.dim() == 0 or not x.numel() or len(x) % _BATCH:
        return False
    apart, twins, rounding = _distances(x)
    return bool((apart > rounding) & (twins <= torch.maximum(apart * 1e-2, rounding)))


def _per_image(x: Tensor, sees: bool) -> tuple[int, ...] | None:
    """Shape for one image of what holds image after image in its first axis, each in one row or several (windows).

    The first and the last image are the same, so their numbers are, and those of the other differ. What depends on no
    image has one row for each, all the same.
    """
    if x.dim() == 0 or not len(x) or len(x) % _BATCH:
        return None
    apart, twins, rounding = _distances(x)
    rows = len(x) // _BATCH
    if not sees:
        return tuple(x.shape[1:]) if rows == 1 and bool(torch.maximum(apart, twins) <= rounding) else None
    if not bool(twins <= torch.maximum(apart * 1e-2, rounding)):
        return None
    return tuple(x.shape[1:]) if rows == 1 else (rows, *x.shape[1:])


def _check_features(encoder: Encoder, features: Tensor) -> None:
    if not bool(features.isfinite().all()):
        raise McdoError(
            f"{encoder.key}: its features of fixed calibration inputs are not finite; look at the model's weights"
        )
    if not _one_norm(features[:2]):
        return
    with torch.no_grad():  # two may agree by chance
        if _one_norm(encoder.forward_image(encoder.calibration_inputs(8), exact=True)):
            raise McdoError(
                f"{encoder.key}: the features of different inputs have one and the same norm "
                f"({float(features[0].norm()):.4f}): they are normalised already (or end in a LayerNorm that was never "
                "trained), so scores before and after normalisation are the same and no control for the norm means "
                "anything. Give the features before that, such as encode_image(..., normalize=False)"
            )


def _one_norm(features: Tensor) -> bool:
    """Whether all norms are one, or differ a thousand times less than the features themselves do."""
    held = features.double()
    norms = held.norm(dim=-1)
    apart, spread = (held - held[0]).norm(dim=-1).max(), norms.max() - norms.min()
    unit = (norms - 1).abs().max() <= _ROUNDING
    # untrained towers with a tiny scale on their branches hardly see the image: rounding would decide there
    return bool(unit | ((apart > 1e-4 * norms.max()) & (spread <= 1e-3 * apart)))
