"""Every kind of measurement, as a value: what is asked of which encoder, on which images.

A request is a frozen dataclass, so that equal requests are one measurement and a set of them can be planned before the
first is measured. An experiment declares requests and is given their values; nobody else measures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders import TextTower, Tokens
from mcdo.encoders.zero_shot import TEMPLATES, class_prompts, zero_shot_logits
from mcdo.errors import NoTextTowerError
from mcdo.estimators import DimensionWeights, FirstOrderRun, MonteCarloConfig, MonteCarloRun, first_order, monte_carlo
from mcdo.estimators.by_image import of_every_image
from mcdo.estimators.rows import GRAPH_ROWS, pixel_rows
from mcdo.perturbation import PASS_BLOCK, Perturbation, deterministic_features, find_sites
from mcdo.stats.prototypes import class_heads, why_no_prototypes

if TYPE_CHECKING:
    from mcdo.encoders import Encoder
    from mcdo.estimators.shown import Prepared
    from mcdo.harness.experiment import View
    from mcdo.harness.session import Session

Value = TypeVar("Value")
Arrays = dict[str, NDArray[Any]]
_NEVER = 1e3
"""Below the smallest logit: e to the minus that is zero."""
EXACT_UP_TO = 64
"""Feature sizes D for which first order is taken with all D + 1 probes, so without noise of its own."""


@dataclass(frozen=True)
class Images:
    """Which images are shown: ``n`` of the session's set, or of ``source``; all where there are fewer.

    Attributes:
        n: how many; None for all.
        source: a specification for :func:`mcdo.load_images`; None for the session's.
        degradation: what is done to them first, such as ``"blur:5"``.
        half: (seed, 0 or 1) for one half of their origins, with all images of each
            (:func:`~mcdo.images.sampling.second_half`); None for all.
        fold: likewise, of that half.
        common_masks: all are seen under the same masks.

    """

    n: int | None
    source: str | None = None
    degradation: str | None = None
    half: tuple[int, Literal[0, 1]] | None = None
    fold: tuple[int, Literal[0, 1]] | None = None
    common_masks: bool = False


@dataclass(frozen=True)
class Texts:
    """Prompts in the place of images: the text tower is shown them. ``origins`` as those of images; () for none."""

    prompts: tuple[str, ...]
    origins: tuple[str, ...] = ()


Shown = Images | Texts


@dataclass(frozen=True)
class Request(ABC, Generic[Value]):
    """One measurement of ``model``; subclasses say of what.

    Attributes:
        needs_classes: whether the images must have classes, of which prompts are made.

    """

    needs_classes: ClassVar[bool] = False

    model: str

    @abstractmethod
    def measure(self, session: Session) -> Value:
        """Look it up, or carry it out; called once in a session."""

    @property
    def passes_of_images(self) -> bool:
        """Whether it is Monte Carlo passes over images, whose rate is what a score costs."""
        return False

    def expected_passes(self, session: Session) -> int:
        """About how many passes of one image it takes; 0 for next to none."""
        return 0

    def passes_beside(self, session: Session) -> int:
        """About how many more that follow from the encoder, such as those of each site.

        The encoder is loaded for this, and no image is read.
        """
        return 0

    def divisible(self, session: Session) -> tuple[int, int] | None:
        """Images, and how many of them are measured together, where processes can share them; None where not."""
        return None

    def union(self, other: Request[Any]) -> Request[Value] | None:
        """One request that serves both, or None."""
        return self if self == other else None

    def part_of(self, value: Value) -> Value:
        """What this request alone would have given, of the value of a :meth:`union`."""
        return value


@dataclass(frozen=True)
class Passes(Request[MonteCarloRun]):
    """A Monte Carlo run: passes under ``config``.

    Attributes:
        calibration: other images, whose features give the dimensions' weights of weighted_trace and topk_trace; None
            for a run without these scores.

    """

    shown: Shown
    config: MonteCarloConfig
    calibration: Images | None = None

    @property
    def passes_of_images(self) -> bool:
        """Unless it is a text tower's."""
        return isinstance(self.shown, Images)

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown) * self.config.trials * self.config.passes[-1]

    def divisible(self, session: Session) -> tuple[int, int] | None:
        return _blocks(session, self.model, self.shown, PASS_BLOCK, session.settings.batch_size)

    def measure(self, session: Session) -> MonteCarloRun:
        """Of the image tower, or of the text tower where prompts are shown."""
        encoder, images, pixels = session.tower(self.model, self.shown)
        weights = _dimension_weights(session, self.model, self.calibration)
        with session.unmuted():
            return monte_carlo(
                encoder,
                images,
                self.config.dropout,
                self.config.passes,
                self.config.trials,
                self.config.seed,
                geometry=self.config.geometry,
                scores=self.config.scores,
                weights=weights,
                batch_size=session.settings.batch_size,
                store=session.store,
                pixels=pixels,
                progress=session.progress(self),
            )

    def union(self, other: Request[Any]) -> Passes | None:
        """Masks are keyed, so more trials or more passes change nothing in fewer."""
        if not isinstance(other, Passes):
            return None
        mine, its = self.config, other.config
        if (self.model, self.shown, self.calibration) != (other.model, other.shown, other.calibration):
            return None
        if (mine.dropout, mine.seed) != (its.dropout, its.seed):
            return None
        config = replace(
            mine,
            passes=tuple(sorted({*mine.passes, *its.passes})),
            trials=max(mine.trials, its.trials),
            geometry=tuple(sorted({*mine.geometry, *its.geometry})),
            scores=tuple(sorted({*mine.scores, *its.scores})),
        )
        return replace(self, config=config)

    def part_of(self, value: MonteCarloRun) -> MonteCarloRun:
        """The trials and the T that were asked for."""
        return value.restricted(self.config)


@dataclass(frozen=True)
class FirstOrder(Request[FirstOrderRun]):
    """First-order scores from ``probes`` probes in each of ``trials`` trials.

    Attributes:
        calibration: other images, whose features give the dimensions' weights of ``score``, which the run is of; None
            for a run of all scores without weights.

    """

    shown: Shown
    dropout: Perturbation
    probes: int = 8
    trials: int = 1
    seed: int = 42
    calibration: Images | None = None
    score: str = ""

    @classmethod
    def exact_or(
        cls, probes: int, trials: int, about: View, shown: Shown, dropout: Perturbation, seed: int
    ) -> FirstOrder:
        """All D + 1 probes in one trial where that is affordable: no noise is left in the scores.

        Else ``probes`` in each of ``trials`` trials, whose spread shows the noise that all images share.
        """
        D = about.encoder().feature_dim
        probes, trials = (D + 1, 1) if D <= EXACT_UP_TO else (probes, trials)
        return cls(about.model, shown, dropout, probes, trials, seed)

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown) * (1 + self.trials * (self.probes - 1))

    def divisible(self, session: Session) -> tuple[int, int] | None:
        return _blocks(session, self.model, self.shown, GRAPH_ROWS, None)

    def measure(self, session: Session) -> FirstOrderRun:
        """Of the image tower, or of the text tower where prompts are shown."""
        encoder, images, pixels = session.tower(self.model, self.shown)
        weights = _dimension_weights(session, self.model, self.calibration)
        with session.unmuted():
            return first_order(
                encoder,
                images,
                self.dropout,
                self.probes,
                self.trials,
                self.seed,
                weights=weights,
                score=self.score,
                store=session.store,
                pixels=pixels,
                progress=session.progress(self),
            )


@dataclass(frozen=True)
class StoredArrays(Request[Arrays]):
    """A measurement that yields named arrays; adding a kind is a subclass with three members.

    Attributes:
        what: names the kind in the store's keys and listings.
        code: the package or module that makes them, whose code is part of the key; "" for the kind's own module.
        text: whether the tokenizer or the text tower takes part.

    """

    what: ClassVar[str]
    code: ClassVar[str] = ""
    text: ClassVar[bool] = True

    @abstractmethod
    def identity(self, session: Session) -> Mapping[str, Any]:
        """What decides the arrays beside the encoder (and is all where ``model`` is ""), JSON-able."""

    @abstractmethod
    def compute(self, session: Session) -> Arrays:
        """Make them; the only place that may need the loaded model."""

    def measure(self, session: Session) -> Arrays:
        """From the store, or computed now and stored."""
        identity, code = self.identity(session), self.code or type(self).__module__
        return session.stored(self.what, self.model, identity, lambda: self.compute(session), code, text=self.text)


@dataclass(frozen=True)
class _Deterministic(StoredArrays):
    """One array of one deterministic pass."""

    shown: Images

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown)

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"images": session.image_set(self.shown).fingerprint}


@dataclass(frozen=True)
class Features(_Deterministic):
    """Deterministic features before normalisation: ``features`` float32 ``[N, D]``."""

    what = "features"
    text = False

    def compute(self, session: Session) -> Arrays:
        return features_of(session, self, session.encoder(self.model), session.pixels(self.model, self.shown))


@dataclass(frozen=True)
class Logits(_Deterministic):
    """Zero-shot logits under every template: ``logits`` float64 ``[templates, N, C]``.

    Of an encoder without a text tower they are those of class prototypes, ``[1, N, C]``, beside log votes of nearest
    neighbours, ``neighbours`` ``[N, C]``: each image is read by the half of the originals that it is not in, as they
    are without a degradation (:mod:`mcdo.stats.prototypes`).
    """

    what = "zero-shot logits"
    needs_classes = True

    def measure(self, session: Session) -> Arrays:
        """By the text tower where there is one.

        Raises:
            NoTextTowerError: where there is none, and the images make no prototypes.

        """
        encoder = session.encoder(self.model)
        return super().measure(session) if encoder.has_text else self._by_prototypes(session)

    def _by_prototypes(self, session: Session) -> Arrays:
        """Not stored: they follow from features, which are."""
        images, clean = session.image_set(self.shown), replace(self.shown, degradation=None)
        reason = why_no_prototypes(images.labels, images.origins)
        if reason or images.labels is None:
            raise NoTextTowerError(
                f"{self.model} has no text tower, and {images.name} cannot stand in for it: {reason}"
            )
        features, reference = (session.measure(Features(self.model, each))["features"] for each in (self.shown, clean))
        made = class_heads(features, images.labels, images.origins, reference=reference, seed=session.settings.seed)
        logits, neighbours = (
            _over_all(each, made.classes, len(images.class_names)) for each in (made.prototypes, made.neighbours)
        )
        return {"logits": logits[None], "neighbours": neighbours}

    def identity(self, session: Session) -> Mapping[str, Any]:
        images = session.image_set(self.shown)
        classes = {"classes": list(images.class_names), "templates": list(TEMPLATES)}
        return {"images": images.fingerprint, **classes}

    def passes_beside(self, session: Session) -> int:
        """A prompt for each class and template, where there is a text tower."""
        return session.classes(self.shown) * len(TEMPLATES) if session.encoder(self.model).has_text else 0

    def compute(self, session: Session) -> Arrays:
        encoder = session.encoder(self.model)
        prompts = class_prompts(encoder, session.image_set(self.shown))
        features = session.measure(Features(self.model, self.shown))["features"]
        text = session.measure(TextFeatures(self.model, prompts))["features"]
        return {"logits": zero_shot_logits(encoder, features, text)}


def _dimension_weights(session: Session, model: str, calibration: Images | None) -> DimensionWeights | None:
    if calibration is None:
        return None
    features = session.measure(Features(model, calibration))["features"]
    return DimensionWeights.fit(features, session.image_set(calibration).origins)


def _over_all(logits: NDArray[np.float64], named: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Logits over all classes of those that the head names: it takes no image for another."""
    if len(named) == classes:
        return logits
    whole = np.full((len(logits), classes), logits.min() - _NEVER)
    whole[:, named] = logits
    return whole


@dataclass(frozen=True)
class TextFeatures(StoredArrays):
    """Text features before normalisation: ``features`` float32 ``[n, D]``."""

    what = "text features"

    prompts: tuple[str, ...]

    def passes_beside(self, session: Session) -> int:
        """One for each prompt."""
        return len(self.prompts)

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"prompts": list(self.prompts)}

    def compute(self, session: Session) -> Arrays:
        tower = TextTower(session.encoder(self.model))
        return features_of(session, self, tower, Tokens(tower.tokenize(self.prompts)))


@dataclass(frozen=True)
class TokenCounts(StoredArrays):
    """Tokens of each prompt before the padding: ``tokens`` int64 ``[n]``."""

    what = "token counts"

    prompts: tuple[str, ...]

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"prompts": list(self.prompts)}

    def compute(self, session: Session) -> Arrays:
        return {"tokens": TextTower(session.encoder(self.model)).token_counts(self.prompts)}


def features_of(session: Session, request: StoredArrays, encoder: Encoder, pixels: Prepared) -> Arrays:
    """``features`` float32 [N, D] of what the tower is shown, kept as they come."""
    find_sites(encoder)  # refuses a tower that has other features where its maps are watched
    with session.unmuted():
        (features,) = of_every_image(
            encoder,
            pixels,
            lambda batch: (deterministic_features(encoder, batch),),
            session.settings.batch_size,
            session.progress(request),
            session.parts,
        )
    return {"features": features}


def _blocks(session: Session, model: str, shown: Shown, rows_per_image: int, asked: int | None) -> tuple[int, int]:
    """Images, and those of a block; on CUDA a guess, where blocks follow from the memory that is free."""
    encoder, images, _ = session.tower(model, shown)
    guessed = 64 * rows_per_image if encoder.device.type == "cuda" else pixel_rows(encoder, None)
    return len(images), max(1, (guessed if asked is None else asked) // rows_per_image)


def merged(requests: Iterable[Request[Any]], plan: Iterable[Request[Any]] = ()) -> list[Request[Any]]:
    """As few requests as serve all of ``requests``, and all of ``plan``, which were merged before."""
    plan = list(plan)
    for request in requests:
        for i, planned in enumerate(plan):
            both = planned.union(request)
            if both is not None:
                plan[i] = both
                break
        else:
            plan.append(request)
    return plan
