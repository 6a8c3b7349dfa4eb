"""What the harness's own gates look at in a model: its sites, p = 0, its state afterwards, batches, its text tower.

They are measured like everything else, so that a store that was filled elsewhere holds them too: whoever judges from it
loads no model, and has no GO from gates that were not looked at for this encoder, these sites and this code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder
from mcdo.encoders.zero_shot import TEMPLATES, unit
from mcdo.estimators import monte_carlo
from mcdo.estimators.census import census, passes_of_site
from mcdo.estimators.resumption import KeptValues
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.harness import Experiment, Files, Images, Inputs, Request, Session, Settings, StoredArrays, TextFeatures, View
from mcdo.images import ImageSet
from mcdo.perturbation import (
    PASS_BLOCK,
    Dropout,
    Perturbation,
    deterministic_features,
    find_sites,
    image_keys,
    perturbed,
)
from mcdo.store import Unfinished

FEW = 8
"""Images that are looked at."""
COLLAPSED = 0.90
"""Mean pairwise cosine of prompts above which they are nearly one to a text tower.

Of the thousand classes of ImageNet a broken tower had 0.976 and the right one 0.762 (S1). Two or three classes that are
much alike can lie above it in the right one too, so a tower is refused only if :data:`VARIED` things do as well.
"""
VARIED = (
    "airplane", "apple", "bathtub", "bee", "bicycle", "book", "bridge", "candle", "castle", "clock", "coral",
    "dog", "eagle", "elephant", "forest", "guitar", "hammer", "helicopter", "horse", "island", "jellyfish", "kettle",
    "lighthouse", "motorcycle", "mushroom", "newspaper", "owl", "piano", "pizza", "rocket", "sandwich", "ship", "snake",
    "sofa", "spider", "stethoscope", "telephone", "train", "umbrella", "violin", "volcano", "wedding dress", "whale",
)  # fmt: skip
"""Things that have little in common."""


@dataclass(frozen=True)
class TowerChecks(StoredArrays):
    """What the image tower does, on the first images of ``shown``.

    ``sites``: JSON, UTF-8: name and role of each site that was requested, and of each that was found alive. ``calls``
    and ``variance`` [sites]: how often a pass carries it out, and trace_pre of it alone. ``p_zero`` [images]: whether
    passes at p = 0 are the deterministic features. ``watched`` [2]: the largest difference of the watched forward pass
    from the library's own, and its largest value. ``restored`` [2]: whether weights and modules are as before, after a
    pass and after an error in one. ``batches`` [5]: the largest relative differences of scores at three other batch
    sizes, in another order, and of some of the images.
    """

    what = "checks of the harness"
    text = False

    shown: Images
    dropout: Perturbation

    def images(self, session: Session) -> ImageSet:
        return session.image_set(self.shown).select(slice(0, FEW))

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"images": self.images(session).fingerprint, "kind": self.dropout.as_dict()}

    def passes_beside(self, session: Session) -> int:
        """Each site is looked at in a pass, then in some more; beside these are the passes of :meth:`compute`.

        Those of a run count once for each thread: so few images are one block, at which one works while the rest wait,
        and sites are shared among them.
        """
        encoder, n = session.encoder(self.model), min(FEW, session.count(self.shown))
        sites, (few, passes) = find_sites(encoder).select(self.dropout.sites), _batched(encoder)
        shown = n if encoder.resolution <= 64 else 1
        threads = torch.get_num_threads() if encoder.device.type == "cpu" else 1
        alone = shown * sum(passes_of_site(site, self.dropout, shown) for site in sites)
        return len(sites) * shown + 3 * n + 2 * 2 * PASS_BLOCK + alone + threads * (5 * few + 3) * passes

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder, images = session.encoder(self.model), self.images(session)
        pixels = session.pixels(self.model, self.shown).batch(slice(0, len(images)))
        keys = image_keys(images.ids, encoder.device)
        records = census(encoder, images, self.dropout, store=session.store, progress=session.progress(self))
        named = {
            "requested": [(site.name, site.role.value) for site in find_sites(encoder).select(self.dropout.sites)],
            "alive": [(record.name, record.role) for record in records],
        }
        plain = deterministic_features(encoder, pixels)
        with perturbed(encoder, Dropout(0.0, self.dropout.sites), seed=1) as tower:
            unperturbed = tower(pixels, keys, trial=0, block=0)
        with torch.inference_mode():
            own = encoder.forward_image(pixels)
        return {
            "sites": np.frombuffer(json.dumps(named).encode(), np.uint8),
            "calls": np.array([record.calls for record in records]),
            "variance": np.array([record.variance for record in records]),
            "p_zero": _as_plain(unperturbed, plain).cpu().numpy(),
            "watched": np.array([float((plain - own).abs().max()), float(own.abs().max())]),
            "restored": np.array(_restored(encoder, self.dropout, pixels[:2], keys[:2])),
            "batches": np.array(_by_batch(encoder, images, self.dropout, session.parts)),
        }


def _as_plain(passes: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """Of each image, whether all of its passes [B, P, D] are its features [B, D], to the bit."""
    return (passes == plain[:, None]).all(dim=(1, 2))


def _restored(encoder: Encoder, dropout: Perturbation, pixels: torch.Tensor, keys: torch.Tensor) -> list[bool]:
    """Whether the model is as it was after a pass, and after an error in one."""

    def tree() -> list[tuple[str, type, list[int]]]:
        return [(name, type(module), list(module._forward_hooks)) for name, module in encoder.model.named_modules()]

    weights, modules = copy.deepcopy(encoder.model.state_dict()), tree()

    def as_before() -> bool:
        after = encoder.model.state_dict()
        same = weights.keys() == after.keys() and all(torch.equal(each, after[name]) for name, each in weights.items())
        return same and tree() == modules

    with perturbed(encoder, dropout, seed=1) as tower:
        tower(pixels, keys, trial=0, block=0)
    found = [as_before()]
    with suppress(ZeroDivisionError), perturbed(encoder, dropout, seed=1) as tower:
        tower(pixels, keys, trial=0, block=0)
        raise ZeroDivisionError
    return [*found, as_before()]


def _batched(encoder: Encoder) -> tuple[int, int]:
    """Images whose batches are compared, and passes."""
    return (FEW, 16) if encoder.resolution <= 64 else (5, 4)


def _by_batch(encoder: Encoder, images: ImageSet, dropout: Perturbation, parts: Unfinished | None) -> list[float]:
    """Largest relative difference of scores by how their images are batched and ordered; each way's are kept."""
    n, passes = _batched(encoder)
    few, every = images.select(slice(0, n)), slice(None)
    ways = [(128, every), *((rows, every) for rows in (1, 3, 8)), (128, slice(None, None, -1)), (128, slice(2, 5))]
    ends = np.cumsum([len(few.select(order)) for _, order in ways]).tolist()
    label = {"encoder": encoder.key, "images": images.name, "protocol": "scores by how images are batched"}
    kept = KeptValues(parts, ends[-1], label)
    with kept.saved():
        for (rows, order), start, end in zip(ways, [0, *ends], ends, strict=False):
            if not kept.done[start:end].all():
                run = monte_carlo(
                    encoder, few.select(order), dropout, (passes,), 1, batch_size=rows, geometry=(), progress=False
                )
                kept.put(start, run.scores("trace_pre")[0])
    whole, *others = np.split(kept.values, ends[:-1])
    pairs = ((other, whole[order]) for other, (_, order) in zip(others, ways[1:], strict=True))
    return [float(np.max(np.abs(one - other) / np.abs(other), initial=0.0)) for one, other in pairs]


@dataclass(frozen=True)
class ChecksResult:
    """What was seen of a model.

    Attributes:
        requested: name and role of each requested site.
        alive: the same of those that were found alive.
        calls: how often a pass carries each out.
        variance: trace_pre of each alone.
        p_zero: whether passes at p = 0 are the deterministic features, of each image.
        watched: largest difference of the watched forward pass from the library's own, and its largest value.
        restored: whether the model is as before, after a pass and after an error.
        batches: largest relative differences between ways of batching.
        cosine: mean over pairs of class prompts; None without text or classes.
        varied: the same of prompts of :data:`VARIED` things, where those of the classes lie above :data:`COLLAPSED`.

    """

    requested: tuple[tuple[str, str], ...]
    alive: tuple[tuple[str, str], ...]
    calls: tuple[int, ...]
    variance: tuple[float, ...]
    p_zero: tuple[bool, ...]
    watched: tuple[float, float]
    restored: tuple[bool, bool]
    batches: tuple[float, ...]
    cosine: float | None
    varied: float | None

    @property
    def collapsed(self) -> bool:
        """Whether the text tower tells nothing apart: neither the classes nor what is more different than they are.

        Prompts of classes that are one to it, or no vectors at all, are enough.
        """
        if self.cosine is None or self.cosine <= COLLAPSED:
            return False
        one = not self.cosine < 1 - 1e-6
        return one or self.varied is None or not self.varied <= COLLAPSED


@dataclass(frozen=True)
class HarnessChecks(Experiment[ChecksResult]):
    """The images are those of exp0."""

    key = "harness"
    name = "harness_checks"
    phase = "phase1"
    judges_heads = True
    knows_shared_noise = True
    files = Files(summary="{}/harness_summary.json", overall="harness_overall_summary.json")

    n: int | None = 500

    @classmethod
    def sizes(cls, settings: Settings) -> dict[str, Any]:
        """As many as exp0 has."""
        return {"n": NestedPasses.configured(settings).n}

    @property
    def shown(self) -> Images:
        """Of which the first are looked at."""
        return Images(self.n)

    def tower(self, model: str) -> TowerChecks:
        return TowerChecks(model, self.shown, self.dropout)

    def prompts(self, about: View) -> TextFeatures | None:
        """Class prompts, where there are classes and a text tower."""
        names = about.images(self.shown).class_names
        if len(names) < 2 or not getattr(about.encoder(), "has_text", True):
            return None
        return _prompts(about.model, names)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        yield self.tower(about.model)
        prompts = self.prompts(about)
        if prompts is not None:
            yield from (prompts, _prompts(about.model, VARIED))

    def compute(self, inputs: Inputs) -> ChecksResult:
        found, prompts = inputs[self.tower(inputs.model)], self.prompts(inputs)
        sites = json.loads(found["sites"].tobytes())
        most, size = found["watched"].tolist()
        after_pass, after_error = found["restored"].tolist()
        cosine = None if prompts is None else _mean_cosine(inputs[prompts]["features"])
        varied = None
        if cosine is not None and not cosine <= COLLAPSED:  # else a tower need not know the words of other things
            varied = _mean_cosine(inputs[_prompts(inputs.model, VARIED)]["features"])
        return ChecksResult(
            requested=tuple((name, role) for name, role in sites["requested"]),
            alive=tuple((name, role) for name, role in sites["alive"]),
            calls=tuple(found["calls"].tolist()),
            variance=tuple(found["variance"].tolist()),
            p_zero=tuple(found["p_zero"].tolist()),
            watched=(most, size),
            restored=(after_pass, after_error),
            batches=tuple(found["batches"].tolist()),
            cosine=cosine,
            varied=varied,
        )

    def summary(self, result: ChecksResult) -> Mapping[str, Any]:
        sites = zip(result.alive, result.calls, result.variance, strict=True)
        return {
            "census": [
                {"name": name, "role": role, "calls": calls, "variance": variance}
                for (name, role), calls, variance in sites
            ],
            "images_unperturbed_at_p_zero": sum(result.p_zero),
            "images": len(result.p_zero),
            "watched_and_own_forward_pass": {"largest_difference": result.watched[0], "largest": result.watched[1]},
            "restored_after_a_pass_and_an_error": list(result.restored),
            "largest_relative_differences_between_batches": list(result.batches),
            "mean_cosine_of_class_prompts": result.cosine,
            "mean_cosine_of_varied_prompts": result.varied,
        }


def _prompts(model: str, names: Sequence[str]) -> TextFeatures:
    return TextFeatures(model, tuple(TEMPLATES[0].format(name) for name in names))


def _mean_cosine(features: NDArray[np.float32]) -> float:
    """Over all pairs of different prompts."""
    units, n = unit(features), len(features)
    return float((np.square(units.sum(axis=0)).sum() - n) / (n * (n - 1)))
