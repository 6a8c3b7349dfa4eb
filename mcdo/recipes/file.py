"""recipe.json: one encoder, the sites and the score chosen for it, and what was measured of them. Versioned, checked.

A score under a recipe is p / (1 - p) · Σ over sites of weight · (what the site contributes to the score), estimated to
first order or by passes. Passes have one p for all their sites, so recipes of passes have equal weights. What stands
here beside the choice (quantiles of the calibration set, responses to damage, the verdict) holds for that encoder,
those weights and that preprocessing alone, so :meth:`Recipe.check` refuses any other.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mcdo.encoders.spec import Precision
from mcdo.errors import McdoError, McdoWarning
from mcdo.estimators import SCORES, DimensionWeights
from mcdo.estimators.score_table import WEIGHTED
from mcdo.perturbation import KINDS, Perturbation, Role
from mcdo.report.files import write_json
from mcdo.schema import Count, Hash, NotNegative, Record, Share, Size, Text, checked, plain, read_json
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from mcdo.encoders import Encoder

SEAL = "seal"
"""Key of the hash over the rest of the file; see :func:`seal_of`."""
VERSION: Literal[1] = 1
"""Of the schema; raised by whatever a reader of this one would misread."""
MAKE = "make one with `python -m pytest -m recipe --models=KEY`, which writes it below reports/recipe"

Least2 = Annotated[int, Meta(ge=2, lt=2**31)]
Probability = Annotated[float, Meta(gt=0, lt=1)]
Outcome = Literal["met", "not met", "undecided"]


class UnsealedRecipeWarning(McdoWarning):
    """A recipe may have been changed since it was measured."""


class EncoderIdentity(Record, frozen=True):
    """What decides an encoder's image features, as in the store's keys.

    Attributes:
        key: its name, which decides nothing.
        weights: hash of the weights.
        architecture: hash of what the model does with them, as code: it may change with a library's version.
        probe: digest, to two digits, of the features of a fixed input: the architecture as it is carried out.
        preprocessing: resize, crop, interpolation, mean and std, in words.
        precision: of the linear maps.

    """

    key: Text
    weights: Hash
    architecture: Hash
    probe: Hash
    preprocessing: Text
    precision: Precision
    random_weights: bool

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderIdentity:
        """The identity of a loaded encoder, or of one whose identity the store has."""
        return cls(
            key=encoder.key,
            weights=encoder.weights_hash,
            architecture=encoder.architecture,
            probe=encoder.probe,
            preprocessing=encoder.preprocess_id,
            precision=encoder.dtype,  # type: ignore[arg-type]
            random_weights=encoder.random_weights,
        )


class Interval(Record, frozen=True):
    """An estimate, as :class:`mcdo.stats.Estimate`; null stands for what is undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: Count
    level: Share = 0.95
    reason: str = ""

    @classmethod
    def of(cls, estimate: Estimate) -> Interval:
        """From a statistic."""
        return cls(**estimate.as_dict())  # type: ignore[arg-type]

    @property
    def estimate(self) -> Estimate:
        """As statistics have it, with NaN for null."""
        value, low, high = (math.nan if each is None else each for each in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n, self.level, self.reason)


class SiteWeight(Record, frozen=True):
    """A site, and what its contribution is multiplied by.

    Attributes:
        block: counts blocks from 0 in the order of execution.
        linearity: variance of passes at this site alone, over that of the linear part of the same masks.

    """

    name: Text
    role: Role
    weight: NotNegative
    block: Count | None = None
    linearity: Interval | None = None


class Estimator(Record, frozen=True):
    """How the score is estimated: R ``probes`` to first order, or T ``passes``; ``forwards`` is the cost of an image.

    The cost counts deterministic forward passes; one product with a gradient counts as many as it was measured to take.
    """

    method: Literal["first_order", "monte_carlo"]
    probes: Least2 | None = None
    passes: Least2 | None = None
    trials: Size = 1
    seed: Count = 42
    forwards: NotNegative | None = None

    def __post_init__(self) -> None:
        wanted, other = ("probes", "passes") if self.method == "first_order" else ("passes", "probes")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.method} takes {wanted} and no {other}")


class Dimensions(Record, frozen=True):
    """Weights of the feature's dimensions, [D], where the score has them, and the images that they were fitted on.

    Attributes:
        weights: of each dimension's variance in weighted_trace; they sum to one.
        source: what they were fitted to, in words.
        top: the dimensions that topk_trace takes.
        origins: of the images that they were fitted on, which no score is for.

    """

    weights: Annotated[tuple[NotNegative, ...], Meta(min_length=1)]
    source: Text
    top: tuple[Count, ...] = ()
    origins: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        if not math.isclose(math.fsum(self.weights), 1, abs_tol=1e-6):
            raise ValueError(f"weights of dimensions must sum to 1, not {math.fsum(self.weights):.6g}")
        if len(set(self.top)) < len(self.top) or max(self.top, default=0) >= len(self.weights):
            raise ValueError(f"top must name each dimension once, below {len(self.weights)}")

    @property
    def fitted(self) -> DimensionWeights:
        """As measurements take them."""
        import numpy as np

        return DimensionWeights(np.array(self.weights), np.array(self.top, dtype=np.int64), frozenset(self.origins))


class Calibration(Record, frozen=True):
    """The clean images on which the score was calibrated.

    Attributes:
        images: specification, as :func:`mcdo.load_images` takes it.
        fingerprint: hash over ids and contents.
        n, origins: numbers of images and of originals.
        quantiles: of the score at evenly spaced levels, the first the smallest score and the last the largest.

    """

    images: Text
    fingerprint: Hash
    n: Size
    origins: Size
    seed: Count
    quantiles: Annotated[tuple[float, ...], Meta(min_length=2, max_length=10_001)]

    def __post_init__(self) -> None:
        if any(b < a for a, b in pairwise(self.quantiles)):
            raise ValueError("quantiles must ascend")
        if self.origins > self.n:
            raise ValueError(f"{self.origins} originals of {self.n} images")


class Level(Record, frozen=True):
    """One degradation at one level, clean and degraded under the same noise.

    Attributes:
        degradation: such as ``blur:5``.
        severity: in native units, 0 for the clean image.
        raised: share of images whose score rises.
        log_ratio: mean of log(degraded score / clean score).

    """

    degradation: Text
    severity: NotNegative
    raised: Interval
    log_ratio: Interval


class Response(Record, frozen=True):
    """How the score answers to one family of damage, and the way back from a score to a severity.

    Attributes:
        severities: ascending from 0, the clean image, in native units of ``unit``.
        log_score: mean of log(score) at each severity, on the calibration set.
        fitted: its nearest non-decreasing curve; a score is read backwards from it where ``shape`` is "rising".
        shape: "rising", "flat" or "not monotone"; ``reason`` where no severity can be read.
        levels: each severity but the clean one, paired with the clean images.

    """

    family: Text
    unit: Text
    severities: Annotated[tuple[NotNegative, ...], Meta(min_length=2)]
    log_score: tuple[Interval, ...]
    fitted: tuple[Interval, ...]
    shape: Literal["rising", "flat", "not monotone"]
    levels: tuple[Level, ...]
    reason: str = ""

    def __post_init__(self) -> None:
        if self.severities[0] != 0 or any(b <= a for a, b in pairwise(self.severities)):
            raise ValueError("severities must ascend from 0, the clean image")
        lengths = {len(self.severities), len(self.log_score), len(self.fitted), len(self.levels) + 1}
        if len(lengths) != 1:
            raise ValueError("severities, log_score and fitted have one entry for each level and one for the clean")


class Difference(Record, frozen=True):
    """A paired difference and the p of its test, corrected by Holm over the family it was reported in."""

    estimate: Interval
    p_holm: Share | None = None


class Gain(Record, frozen=True):
    """Share raised by the recipe less that by another score, on images that chose nothing; ``optimism``: where it was
    chosen the gain looked larger by this much.
    """

    over: Text
    difference: Difference
    optimism: float | None = None


class Domain(Record, frozen=True):
    """First order beside passes, at the recipe's p and sites: whether it ranks alike, and has the same level."""

    ranking: Outcome
    level: Outcome
    rank_correlation: Interval
    ratio: Interval


class Confirmation(Record, frozen=True):
    """What passes said of the choice, on images that chose nothing."""

    outcome: Outcome
    passes: Least2
    trials: Size
    raised: Mapping[Text, Interval]
    gains: tuple[Gain, ...] = ()


class HeldOut(Record, frozen=True):
    """What the recipe is worth, on origins that chose nothing.

    Attributes:
        reliable: whether ρ, SNR and ICC are met by their intervals.
        valid: whether degraded images score higher, by the interval.
        reliability: spearman, snr, icc.
        raised: share of images raised, by degradation; ``chosen_on`` names those of the choice.
        gains: over all sites, and over trivial scores.

    """

    reliable: Outcome
    valid: Outcome
    reliability: Mapping[Text, Interval]
    raised: Mapping[Text, Interval]
    chosen_on: tuple[Text, ...]
    gains: tuple[Gain, ...] = ()
    domain: Domain | None = None
    confirmation: Confirmation | None = None
    statement: str = ""


class Recipe(Record, frozen=True):
    """A recipe; see the module.

    Attributes:
        kind: of perturbation, as ``--perturbation`` calls it, with drop probability ``p`` and further ``options``.
        sites: in the order of execution, with a weight each. Passes disturb those with weight; first order draws its
            probes for all that are named here, so that a score has the probes of the calibration set.
        provenance: versions, devices, code: for people.

    """

    version: Literal[1]
    name: Text
    encoder: EncoderIdentity
    kind: Text
    p: Probability
    sites: Annotated[tuple[SiteWeight, ...], Meta(min_length=1)]
    estimator: Estimator
    score: Text
    calibration: Calibration
    responses: tuple[Response, ...]
    verdict: HeldOut
    provenance: Mapping[str, Any]
    options: Mapping[str, bool | float] = {}
    dimensions: Dimensions | None = None

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the site {twice} occurs twice")
        families = [response.family for response in self.responses]
        if len(set(families)) < len(families):  # columns of scores are named after them
            raise ValueError("a family of damage occurs twice among the responses")
        weights = {site.weight for site in self.sites if site.weight}
        if not weights:
            raise ValueError("every site has weight 0, so nothing would be measured")
        if self.estimator.method == "monte_carlo" and len(weights) > 1:
            raise ValueError("passes have one p for all sites: give equal weights, or estimate to first order")
        if (self.score in WEIGHTED) != (self.dimensions is not None):
            said = "needs weights of dimensions" if self.score in WEIGHTED else "has no weights of dimensions"
            raise ValueError(f"{self.score} {said}: see dimensions")
        if self.dimensions is not None and self.score == "topk_trace" and not self.dimensions.top:
            raise ValueError("topk_trace needs the top of dimensions")

    @property
    def perturbation(self) -> Perturbation:
        """What is done to the tower, at the sites that have weight.

        Raises:
            McdoError: for a kind that is not known here.

        """
        kind = KINDS.find(self.kind)
        kept = tuple(site.name for site in self.sites if site.weight)
        try:
            return kind(self.p, **self.options).at(*kept)  # type: ignore[arg-type]
        except TypeError as error:
            raise McdoError(f"recipe {self.name}: {self.kind} does not take {dict(self.options)}") from error

    def check(self, encoder: Encoder) -> None:
        """Refuse any encoder but the recipe's own.

        The hash of the architecture follows library versions, so where it alone differs the features of a fixed input
        decide.

        Raises:
            McdoError: for other weights, preprocessing, precision or features, with both named.

        """
        own, other = self.encoder, EncoderIdentity.of(encoder)
        differing = {
            "weights": (own.weights[:12], other.weights[:12]),
            "preprocessing": (own.preprocessing, other.preprocessing),
            "precision": (own.precision, other.precision),
        }
        if own.architecture != other.architecture:
            differing["features of a fixed input"] = (own.probe[:12], other.probe[:12])
        wrong = [f"{what} {mine} there and {its} here" for what, (mine, its) in differing.items() if mine != its]
        held = None if self.dimensions is None else len(self.dimensions.weights)
        if held not in (None, encoder.feature_dim):
            wrong.append(f"{held} weights of dimensions there and {encoder.feature_dim} dimensions here")
        if wrong:
            raise McdoError(
                f"the recipe {self.name} was made for {own.key}, and {other.key} is another encoder: "
                f"{'; '.join(wrong)}. Load the recipe's encoder, or {MAKE}"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, as it stands in the file: under its seal."""
        found: dict[str, Any] = plain(msgspec.to_builtins(self))
        return {**found, SEAL: seal_of(found)}


def intervals(estimates: Mapping[str, Estimate]) -> dict[str, Interval]:
    """Estimates by name, for a recipe."""
    return {name: Interval.of(estimate) for name, estimate in estimates.items()}


def quantile_grid(scores: Iterable[float], most: int = 1001) -> tuple[float, ...]:
    """The scores themselves, sorted, or their quantiles at ``most`` evenly spaced levels where there are more."""
    import numpy as np

    held = np.sort(np.asarray(list(scores), dtype=np.float64))
    return tuple(map(float, held if len(held) <= most else np.quantile(held, np.linspace(0, 1, most))))


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file.

    Raises:
        McdoError: for a file that is none, of a later version, that was changed since it was written, or with a score
            or kind that is not known here.

    Warns:
        UnsealedRecipeWarning: where it bears no seal, so that nobody knows whether it was changed.

    """
    found = read_json(Path(path), dict[str, Any], MAKE)
    seal = found.pop(SEAL, None)
    version = found.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise McdoError(f"{path} is a recipe of version {version}; this mcdo reads up to {VERSION}: update mcdo")
    recipe: Recipe = checked(found, Recipe, path)
    if seal is None:
        warnings.warn(
            f"{path} bears no seal, as the files of an older mcdo: nobody knows whether its quantiles, responses and "
            "verdict were measured of the score that it describes",
            UnsealedRecipeWarning,
            stacklevel=2,
        )
    elif seal != seal_of(found):
        raise McdoError(
            f"{path} was changed after it was written, by hand or on its way here. Its quantiles, responses and "
            f"verdict were measured of what it held then; take the file as it was written, or {MAKE}"
        )
    try:
        KINDS.find(recipe.kind)
        SCORES.find(recipe.score)
    except McdoError as error:
        raise McdoError(f"{path}: {error}") from error
    return recipe


def write_recipe(recipe: Recipe, path: str | Path) -> Path:
    """Write a recipe, whole or not at all; returns where it is, as :func:`mcdo.report.files.write_json`."""
    return write_json(Path(path), recipe.as_dict())


def seal_of(facts: Mapping[str, Any]) -> str:
    """Hash over a recipe as it stands in a file: quantiles and responses are those of one score and of no other.

    The name, what the images are called, and the provenance decide nothing and may be changed; what the encoder is,
    :meth:`Recipe.check` compares with the encoder itself.
    """
    free = ("name", "encoder", "provenance", SEAL)
    sealed = {
        key: {**held, "images": ""} if key == "calibration" else held for key, held in facts.items() if key not in free
    }
    plain = json.loads(json.dumps(sealed), parse_int=float)  # some programs write 1.0 as 1
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
