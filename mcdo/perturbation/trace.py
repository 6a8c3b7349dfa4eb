"""One forward pass of a tower, looked at: every map that it carries out, in order, and every weight that it hides."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.encoders.state import plain_tensors
from mcdo.encoders.weights import brief
from mcdo.errors import McdoError
from mcdo.perturbation.flow import BATCH, Flow, distances, sees
from mcdo.perturbation.intercept import Compute, LinearMaps, MapKey, map_key, refused_in
from mcdo.perturbation.roles import Place

_ROUNDING = 2e-3
"""How far from one rounding takes the norm of a feature that was normalised, in float16 at worst."""

_WEIGHTLESS = (
    "nn.MultiheadAttention gives no attention weights there. Ask it for none (need_weights=False), and write an "
    "attention whose weights are wanted with F.linear and softmax"
)


@dataclass
class SeenMap:
    """A map or an attention's probabilities, as seen.

    ``shape`` and ``input_shape`` are for one image; None where the first axis does not hold image after image.
    ``output`` is the whole shape of the output, ``weight`` that of the weight. ``fixed`` says that the weight was made
    of no Parameter, ``complex`` that the output is.
    """

    output: tuple[int, ...]
    shape: tuple[int, ...] | None
    input_shape: tuple[int, ...] | None
    place: Place
    weight: tuple[int, ...] = ()
    registered: bool = True
    fixed: bool = False
    complex: bool = False


@dataclass
class Trace:
    """What a pass showed.

    Attributes:
        maps: by site name, in order.
        attentions: probabilities that can be disturbed, by site name, in order.
        probabilities: for each call of a handler of probabilities, the attention's name, or nothing.
        keys: site name by key.
        held: the Parameters of the keys, so that no id comes to mean another.
        made: calls with a weight that is no Parameter.
        made_of: ids of the Parameters that such a weight was made of.
        missed: weights that took part in a product that is not watched, with its name in ATen.
        touched: ids of the Parameters that took part in anything.
        feeding: maps whose output is a query, key or value.
        by_hand: for each attention whose probabilities cannot be disturbed, what its operands were made from.
        last: what put out the features.
        added: maps whose output was added to another activation, moved and scaled at most.
        added_behind: maps of which that was added which a norm or a nonlinearity made of their output.

    """

    maps: dict[str, SeenMap] = field(default_factory=dict)
    attentions: dict[str, SeenMap] = field(default_factory=dict)
    probabilities: list[str] = field(default_factory=list)
    keys: dict[MapKey, str] = field(default_factory=dict)
    held: list[nn.Parameter] = field(default_factory=list)
    made: int = 0
    made_of: set[int] = field(default_factory=set)
    missed: dict[str, str] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    feeding: set[str] = field(default_factory=set)
    by_hand: list[frozenset[str]] = field(default_factory=list)
    last: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    added_behind: frozenset[str] = frozenset()


def trace(encoder: Encoder, site_name: Callable[[str, str], str]) -> Trace:
    """Carry out one pass of three inputs, of which two are the same, and note what happens.

    Args:
        encoder: whose image tower is looked at.
        site_name: name of a site, from the name of its weight and its part.

    Raises:
        McdoError: if the features are not finite, the same whatever the input, of one norm, or others for the same
            input; or for an attention of a kind that is not handled.

    """
    model = encoder.model
    if not any(module.training for module in model.modules()):
        model.eval()  # LeViT and its kin make what they keep of their weights (a table of biases) anew after it
    listed = dict(model.named_parameters(remove_duplicate=False))  # once: some adapters make new ones at each listing
    names = {id(p): name for name, p in listed.items()}
    parameters = {name: listed[name] for name in names.values()}
    plain = plain_tensors(model)
    names.update((id(value), name) for name, value in plain.items() if isinstance(value, nn.Parameter))
    flow = Flow(parameters, {**dict(model.named_buffers()), **plain})
    tracer = _Tracer(flow, names, site_name)
    try:
        # in inference mode fewer operations are taken apart
        with refused_in(encoder.key), torch.inference_mode(False), torch.no_grad(), flow:
            inputs = encoder.calibration_inputs(2)[[0, 0, 1]]
            flow.enter(inputs)
            with tracer:
                features = encoder.forward_image(inputs, exact=True)
            last = flow.of(features).nearest
            flow.finish()
    except (AttributeError, TypeError) as error:
        if "NoneType" not in str(error):  # which the weights of an attention are
            raise
        raise McdoError(f"{encoder.key}: {brief(error)}, where the tower's maps are watched: {_WEIGHTLESS}") from error
    _check_features(encoder, features)
    _check_as_unwatched(encoder, inputs, features, tracer.coarsest)
    seen = tracer.seen
    seen.touched = {id(parameters[name]) for name in flow.touched & parameters.keys()}
    seen.made = tracer.made
    seen.made_of = {id(parameters[name]) for name in tracer.made_of & parameters.keys()}
    seen.missed, seen.feeding, seen.last = flow.missed, flow.feeding, last
    seen.added, seen.added_behind = frozenset(flow.added), frozenset(flow.added_behind)
    seen.by_hand += (before for name, before in flow.by_hand.items() if name not in tracer.reached)
    return seen


class _Tracer(LinearMaps):
    """Notes every map that a pass carries out, and leaves it as it is.

    ``made_of`` names what weights that are no Parameters were made of, ``reached`` the attentions by hand whose softmax
    was seen, ``coarsest`` is the largest step of rounding among the outputs.
    """

    def __init__(self, flow: Flow, names: dict[int, str], site_name: Callable[[str, str], str]) -> None:
        super().__init__(self._note, probabilities=self._note_probabilities)
        self.seen, self.made_of, self.reached = Trace(), set[str](), set[str]()
        self._flow, self._names, self._site_name = flow, names, site_name
        self._parameters = frozenset(names.values())
        self.coarsest, self._convolving = 0.0, False

    def _note(self, weight: Tensor, part: str, compute: Compute) -> Tensor:
        inputs: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            inputs.append(x)
            return x

        made_of = frozenset[str]()
        if isinstance(weight, nn.Parameter):
            self.seen.held.append(weight)
            unknown = f"parameter of shape {tuple(weight.shape)} outside the model"
            name = self._site_name(self._names.get(id(weight), unknown), part)
        else:
            made_of = self._flow.made_of(weight)
            if not made_of:  # a product of two activations
                return compute()
            name = self._site_name(_common_name(made_of & self._parameters or made_of), "")
        with self._flow.watching(weight):
            y = compute(before=look)
        self.coarsest = max(self.coarsest, torch.finfo(y.dtype).eps)
        trail = self._flow.of(inputs[0])
        with self._flow.aside():
            image = trail.image or sees(y)
            shape, input_shape = (_per_image(z, image) for z in (y, inputs[0]))
        if made_of and not (image or trail.nearest):  # a weight made of weights
            return y
        self.made_of |= made_of
        place = Place(image, trail.raw, trail.nearest, trail.bent, self._convolving)
        if shape is not None and weight.dim() == 1:  # a map to one number leaves no axis of features behind
            shape = (*shape, 1)
        name = _next_free(name, self.seen.maps)
        registered = id(weight) in self._names or (bool(made_of) and not made_of & self._flow.strange)
        fixed = bool(made_of) and not made_of & self._parameters
        self.seen.maps[name] = SeenMap(
            tuple(y.shape), shape, input_shape, place, tuple(weight.shape), registered, fixed, y.is_complex()
        )
        self.seen.keys[map_key(weight, part)] = name
        self._flow.put_out(y, name, (inputs[0], weight), image)
        return y

    def _conv2d(self, *args: Any, **kwargs: Any) -> Tensor:
        self._convolving = True  # not by the weight's axes: one of a matrix for each head has as many
        try:
            return super()._conv2d(*args, **kwargs)
        finally:
            self._convolving = False

    def _addmm(self, input: Tensor, mat1: Tensor, mat2: Tensor, **kwargs: Any) -> Tensor:
        if self._flow.of(input).active:  # a residual: a mask of the output would fall on it as well
            self._flow.miss("addmm onto an activation", self._flow.made_of(mat2))
        return super()._addmm(input, mat1, mat2, **kwargs)

    def _softmax(self, softmax: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        attention = self._flow.attention_of(logits)
        if attention is None:
            self.seen.probabilities.append("")
            return softmax(*args, **kwargs)
        self.reached.add(attention)
        return super()._softmax(softmax, *args, **kwargs)

    def _note_probabilities(self, probabilities: Tensor) -> Tensor:
        # named after the module whose projections were carried out last
        name = f"{next(reversed(self.seen.maps), '').partition('#')[0].rpartition('.')[0]}.probabilities"
        if name in self.seen.attentions:
            name = f"{name}.{len(self.seen.attentions)}"
        self.seen.probabilities.append(name)
        image = self._flow.of(probabilities).image
        with self._flow.aside():
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


def _common_name(names: Iterable[str]) -> str:
    """The name of a weight that was made of these: that of the only one, or of the module that holds them all."""
    own = sorted({re.sub(r"\.parametrizations\.(\w+)\..*", r".\1", name) for name in names})
    parts = list(zip(*(name.split(".") for name in own), strict=False))
    shared = [each[0] for each in itertools.takewhile(lambda each: len(set(each)) == 1, parts)]
    return ".".join(shared) or own[0]


def _next_free(name: str, taken: Container[str]) -> str:
    """The name, or with ``#2``, ``#3``, ... behind it where it is taken: a weight is used again."""
    turns = itertools.count(2)
    free = name
    while free in taken:
        free = f"{name}#{next(turns)}"
    return free


def _per_image(x: Tensor, seeing: bool) -> tuple[int, ...] | None:
    """Shape for one image of what holds image after image in its first axis, each in one row or several (windows).

    The first two images are the same, so their numbers are, and those of the other differ. What depends on no
    image has one row for each, all the same.
    """
    if x.dim() == 0 or not len(x) or len(x) % BATCH:
        return None
    apart, twins, rounding = distances(x)
    rows = len(x) // BATCH
    if not seeing:
        return tuple(x.shape[1:]) if rows == 1 and bool(torch.maximum(apart, twins) <= rounding) else None
    if not bool(twins <= torch.maximum(apart * 1e-2, rounding)):
        return None
    return tuple(x.shape[1:]) if rows == 1 else (rows, *x.shape[1:])


def _check_features(encoder: Encoder, features: Tensor) -> None:
    if not bool(features.isfinite().all()):
        raise McdoError(
            f"{encoder.key}: its features of fixed calibration inputs are not finite; look at the model's weights"
        )
    apart, twins, rounding = distances(features)
    if twins > torch.maximum(apart * 1e-2, rounding * 1e2):  # deep towers round more than one map
        raise McdoError(
            f"{encoder.key}: the features of one and the same input differ within a batch, by {float(twins):.2g}: the "
            "model draws random numbers of its own, which no seed here keys, or mixes the images of a batch; switch "
            "that off in the module"
        )
    if not apart and _constant(encoder):
        raise McdoError(
            f"{encoder.key}: the features of different inputs are the same to the last bit: they do not follow the "
            "input; look at the module's forward pass and weights"
        )
    if not _one_norm(features[1:]):
        return
    with torch.no_grad():  # two may agree by chance
        if _one_norm(encoder.forward_image(encoder.calibration_inputs(8), exact=True)):
            raise McdoError(
                f"{encoder.key}: the features of different inputs have one and the same norm "
                f"({float(features[0].norm()):.4f}): they are normalised already (or end in a LayerNorm that was never "
                "trained), so scores before and after normalisation are the same and no control for the norm means "
                "anything. Give the features before that, such as encode_image(..., normalize=False)"
            )


def _check_as_unwatched(encoder: Encoder, inputs: Tensor, features: Tensor, coarsest: float) -> None:
    with torch.no_grad():
        plain = encoder.forward_image(inputs, exact=True)
    apart, _, rounding = distances(plain)
    off = (plain - features).abs().amax()
    within = 10 * coarsest * plain.abs().amax()  # a tower may go into reduced precision by itself
    if off > torch.maximum(torch.maximum(apart * 1e-2, rounding * 1e2), within):
        raise McdoError(
            f"{encoder.key}: its features are others where the tower's maps are watched, by {float(off):.2g}: it "
            f"follows attention weights, or how often it was called. {_WEIGHTLESS}"
        )


def _constant(encoder: Encoder) -> bool:
    """Whether eight inputs, where two may agree by chance, have the same features."""
    with torch.no_grad():
        features = encoder.forward_image(encoder.calibration_inputs(8), exact=True)
    return bool((features == features[0]).all())


def _one_norm(features: Tensor) -> bool:
    """Whether all norms are one, or differ a thousand times less than the features themselves do."""
    held = features.double()
    norms = held.norm(dim=-1)
    apart, spread = (held - held[0]).norm(dim=-1).max(), norms.max() - norms.min()
    unit = (norms - 1).abs().max() <= _ROUNDING
    # untrained towers with a tiny scale on their branches hardly see the image: rounding would decide there
    return bool(unit | ((apart > 1e-4 * norms.max()) & (spread <= 1e-3 * apart)))
