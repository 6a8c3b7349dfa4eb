"""A recipe applied to one's own images: a score each, and what it amounts to.

Images are taken in chunks, so that memory does not grow with them beyond a few numbers each. Every chunk is a
measurement of the store, so that one that was killed goes on where it was, to the same bits. Beside its score an image
has

- its *error*: the standard error of the score over repetitions with other probes or passes; zero where first order
  takes every probe.
- its *quantile* within the calibration set of the recipe.
- a *flag*: whether the score exceeds a threshold that at most a stated share of images such as those of the
  calibration set exceed. With n of them it is the ⌈(n + 1)(1 − α)⌉-th smallest score, so the share is α at most in
  expectation whatever the distribution (Vovk, Gammerman & Shafer 2005).
- an *equivalent*: the severity of damage at which the calibration set's mean log score is this image's, "as uncertain
  as a blur of r". The curve is read backwards; its own band and the error of the score make the interval.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcdo import arguments
from mcdo.errors import McdoError, McdoWarning, nearest
from mcdo.estimators.blocks import check_inputs
from mcdo.estimators.first_order import first_order
from mcdo.estimators.monte_carlo import monte_carlo
from mcdo.estimators.progress import Progress, Silent
from mcdo.recipes.file import MAKE, Recipe, Response, read_recipe
from mcdo.stats import Estimate, share

if TYPE_CHECKING:
    from mcdo.encoders import Encoder
    from mcdo.images import ImageSet
    from mcdo.store import Store

Array = NDArray[np.float64]
TRIALS = 3
"""Repetitions that the error of a score is taken from, where it has one."""
FALSE_ALARM = 0.05
SHIPPED = "default:"
"""What begins the name of a recipe that ships with an embedded encoder."""
_PIXELS = 48 * 2**20  # bytes of a chunk
_CHUNK = 1024
_UNLIKELY = 1e-3
_BEYOND, _CLEAN, _WITHIN, _UNDEFINED = "beyond the measured range", "at most clean", "", "not defined"


class OutsideCalibrationWarning(McdoWarning):
    """Images are unlike those that the recipe was calibrated on."""


@dataclass(frozen=True, eq=False)
class Equivalents:
    """Severities of one family of damage that scores amount to.

    Attributes:
        family, unit: such as "blur", "radius (px)".
        value, low, high: [N]; 0 at most as uncertain as a clean image, infinite beyond the measured range, NaN where
            the family's response is no rise.
        largest: severity up to which it was measured.
        reason: why nothing can be read; empty where it can.

    """

    family: str
    unit: str
    value: Array
    low: Array
    high: Array
    largest: float
    reason: str

    def text(self, i: int) -> str:
        """Severity with its interval, or what :meth:`said` says."""
        said = self.said(i)
        if said:
            return f"{said} (to {self.largest:g})" if said == _BEYOND else said
        high = f"{self.high[i]:.3g}" if math.isfinite(self.high[i]) else f"beyond {self.largest:g}"
        return f"{self.value[i]:.3g} [{self.low[i]:.3g}, {high}] {self.unit}"

    def said(self, i: int) -> str:
        """In words, where a number does not say it: beyond the measured range, at most clean, or not defined."""
        value = float(self.value[i])
        if math.isnan(value):
            return _UNDEFINED
        return _BEYOND if math.isinf(value) else _WITHIN if value > 0 else _CLEAN


@dataclass(frozen=True, eq=False)
class RecipeScores:
    """Scores of N images under a recipe.

    Attributes:
        recipe: the recipe.
        ids: of the images.
        score: [N].
        error: standard error of each score, [N]; NaN where nothing was repeated.
        quantile: within the calibration set, [N], between 0 and 1.
        flagged: whether a score exceeds ``threshold``, [N].
        threshold: of the flag.
        false_alarm: share of images such as those of the calibration set that exceed it, at most.
        equivalents: by family.
        outside: share of the images whose score lies outside the range of the calibration set's.

    """

    recipe: Recipe
    ids: tuple[str, ...]
    score: Array
    error: Array
    quantile: Array
    flagged: NDArray[np.bool_]
    threshold: float
    false_alarm: float
    equivalents: Mapping[str, Equivalents]
    outside: Estimate

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`rows`."""
        families = (f"as_{family}{end}" for family in self.equivalents for end in ("", "_low", "_high", "_note"))
        return ("id", "score", "error", "quantile", "flag", *families)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each image; what is not defined is None."""
        found = []
        for i, name in enumerate(self.ids):
            row: dict[str, Any] = {
                "id": name,
                "score": float(self.score[i]),
                "error": _defined(self.error[i]),
                "quantile": float(self.quantile[i]),
                "flag": bool(self.flagged[i]),
            }
            for family, each in self.equivalents.items():
                ends = (("", each.value), ("_low", each.low), ("_high", each.high))
                row |= {f"as_{family}{end}": _defined(values[i]) for end, values in ends}
                row[f"as_{family}_note"] = each.said(i)
            found.append(row)
        return found

    def write(self, path: str | Path) -> Path:
        """Write :meth:`rows` as CSV, or as Parquet where the name ends so.

        Raises:
            McdoError: for another ending, or Parquet without its library.

        """
        from mcdo.names import printable
        from mcdo.report.export import export

        out = Path(path)
        form = _form(out)
        rows = self.rows() if form == "csv" else [{**row, "id": printable(row["id"])} for row in self.rows()]
        return Path(export(rows, self.columns, form, out))

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`rows`. Raises McdoError without pandas."""
        from mcdo.report.export import frame

        return frame(self.rows(), self.columns)


@dataclass(frozen=True, eq=False)
class AppliedRecipe:
    """A recipe that can score; from :func:`load_recipe`."""

    recipe: Recipe

    def encoder(self, device: str = "cpu", *, key: str | None = None, seed: int = 0) -> Encoder:
        """The recipe's encoder, loaded and checked.

        Args:
            device: where.
            key: where the same weights are now, if not under the recipe's own key.
            seed: of random weights.

        Raises:
            McdoError: for any other encoder, with both named.

        """
        from mcdo.encoders import load_encoder

        own = self.recipe.encoder
        weights = "random" if own.random_weights else "pretrained"
        found = load_encoder(key or own.key, device, weights=weights, seed=seed, precision=own.precision)
        self.recipe.check(found)
        return found

    def score(
        self,
        images: ImageSet,
        *,
        encoder: Encoder | None = None,
        device: str = "cpu",
        false_alarm: float = FALSE_ALARM,
        families: Sequence[str] | None = None,
        trials: int = TRIALS,
        store: Store | Path | str | None = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> RecipeScores:
        """Scores of ``images``, in chunks.

        Args:
            images: from :func:`mcdo.load_images`.
            encoder: the recipe's, loaded; None loads it.
            device: where, if it is loaded here.
            false_alarm: of the flag.
            families: of damage, for equivalents; () for none, None for blur, or the first that the score rises with.
            trials: repetitions that errors are taken from; 1 takes no error, and no time for it.
            store: where chunks are kept, so that a killed run goes on; None keeps nothing.
            batch_size: rows of one forward pass.
            progress: report it.

        Raises:
            McdoError: for another encoder than the recipe's, a family that the recipe has no response to, or a false
                alarm rate that the calibration set is too small for.

        """
        trials = arguments.whole("trials", trials)
        if trials < 1:
            raise McdoError(f"trials = {trials}: at least one is needed (two or more for an error)")
        threshold = threshold_of(self.recipe, false_alarm)
        responses = {family: self._response(family) for family in self._families(families)}
        tower = self.encoder(device) if encoder is None else encoder
        check_inputs(tower, images, self.recipe.perturbation)
        self.recipe.check(tower)
        if not len(images):
            raise McdoError(f"{images.name} holds no images to score")
        if self.recipe.dimensions is not None:
            self.recipe.dimensions.fitted.check_unseen(images)
        K = self._repetitions(tower, trials)
        score, error = self._measured(tower, images, K, store, batch_size, progress)
        quantiles = np.array(self.recipe.calibration.quantiles)
        found = RecipeScores(
            recipe=self.recipe,
            ids=images.ids,
            score=score,
            error=error,
            quantile=quantile_within(score, quantiles),
            flagged=score > threshold,
            threshold=threshold,
            false_alarm=false_alarm,
            equivalents={family: equivalents(each, score, error, K - 1) for family, each in responses.items()},
            outside=_share_outside((score < quantiles[0]) | (score > quantiles[-1]), images.origins),
        )
        self._compare(found, images)
        return found

    def _families(self, asked: Sequence[str] | None) -> Sequence[str]:
        if asked is not None:
            return asked
        held = self.recipe.responses
        rising = [each.family for each in held if each.shape == "rising"] or [each.family for each in held]
        return ("blur",) if "blur" in rising else rising[:1]

    def _response(self, family: str) -> Response:
        known = {each.family: each for each in self.recipe.responses}
        if family not in known:
            there = ", ".join(known) or "none"
            near = f"; the nearest: {nearest(family, known)}" if known else ""
            raise McdoError(f"the recipe {self.recipe.name} has no response to {family!r}{near}. There are: {there}")
        return known[family]

    def _compare(self, found: RecipeScores, images: ImageSet) -> None:
        """Warn where more images lie outside the calibration set's range than chance allows."""
        held, n = self.recipe.calibration, len(found.score)
        outside, expected = round(found.outside.value * n), min(1.0, 2 / (held.origins + 1))
        if chance_outside(int(found.outside.value * found.outside.n), found.outside.n, held.origins) < _UNLIKELY:
            warnings.warn(
                f"{outside} of {n} images of {images.name} score outside the range of the recipe's calibration set "
                f"({held.images}, {held.n} images: {held.quantiles[0]:.3g} to {held.quantiles[-1]:.3g}), where about "
                f"{expected * n:.2g} would: they are unlike those images, and quantiles, flags and equivalents say "
                "little of them; make a recipe on images like yours",
                OutsideCalibrationWarning,
                stacklevel=3,
            )

    # ---- measuring

    def _exact(self, encoder: Encoder) -> bool:
        """Whether every probe is taken, so that a score has no noise."""
        return self.recipe.estimator.probes == encoder.feature_dim + 1

    def _repetitions(self, encoder: Encoder, trials: int) -> int:
        """Trials that are measured: the recipe's own, and further ones for the error."""
        own = self.recipe.estimator.trials
        return own if self._exact(encoder) else max(own, trials)

    def _measured(
        self,
        encoder: Encoder,
        images: ImageSet,
        K: int,
        store: Store | Path | str | None,
        batch_size: int | None,
        progress: bool,
    ) -> tuple[Array, Array]:
        own, exact = self.recipe.estimator.trials, self._exact(encoder)
        step = chunk_size(encoder.resolution)
        weight = np.array([site.weight for site in self.recipe.sites if site.weight])
        score, error = np.empty(len(images)), np.full(len(images), math.nan)
        with _Whole(images, self._cost(K), progress) as whole:
            for start in range(0, len(images), step):
                chunk = images.select(slice(start, start + step))
                values = self._chunk(encoder, chunk, K, weight, store, batch_size, whole.part)
                score[start : start + step] = values[:own].mean(axis=0)
                if exact:
                    error[start : start + step] = 0.0
                elif K > 1:
                    error[start : start + step] = values.std(axis=0, ddof=1) / math.sqrt(own)
                whole.finish(start + len(chunk))
        return score, error

    def _cost(self, trials: int) -> int:
        """Passes or products of an image."""
        estimator = self.recipe.estimator
        return trials * estimator.passes if estimator.passes else 1 + trials * (int(estimator.probes or 2) - 1)

    def _chunk(
        self,
        encoder: Encoder,
        images: ImageSet,
        trials: int,
        weight: Array,
        store: Store | Path | str | None,
        batch_size: int | None,
        progress: Callable[[int, str, str], Progress],
    ) -> Array:
        """Scores of a chunk, ``[K, n]``."""
        recipe, how = self.recipe, self.recipe.estimator
        weights = None if recipe.dimensions is None else recipe.dimensions.fitted
        if how.method == "first_order":
            assert how.probes is not None
            every = recipe.perturbation.at(*(site.name for site in recipe.sites))  # the calibration set's probes
            run = first_order(
                encoder, images, every, how.probes, trials, how.seed,
                batch_size=batch_size, store=store, progress=progress, weights=weights,
                score=recipe.score if weights else "",
            )  # fmt: skip
            by_name = {site.name: site.weight for site in recipe.sites}
            self._check_sites(by_name, (name for name, _ in run.sites))
            ordered = np.array([by_name[name] for name, _ in run.sites])
            return np.asarray(run.decomposition(recipe.score) @ ordered)
        assert how.passes is not None
        found = monte_carlo(
            encoder, images, recipe.perturbation, how.passes, trials, how.seed,
            geometry=None if _needs_passes(recipe.score) else (), weights=weights, scores=(recipe.score,),
            batch_size=batch_size, store=store, progress=progress,
        )  # fmt: skip
        self._check_sites((site.name for site in recipe.sites if site.weight), (name for name, _ in found.sites))
        return np.asarray(found.scores(recipe.score) * weight[0])

    def _check_sites(self, named: Iterable[str], found: Iterable[str]) -> None:
        """Refuse a recipe that names sites by a role or a pattern: each has a weight of its own."""
        odd = sorted(set(named) ^ set(found))
        if odd:
            raise McdoError(
                f"the recipe {self.recipe.name} is to name each site of {self.recipe.encoder.key} once, in full: "
                f"{odd[0]} is there or here, and not both; take the file as it was written, or {MAKE}"
            )


def load_recipe(path: str | Path) -> AppliedRecipe:
    """A recipe that scores images: from its file, or ``default:KEY`` of an embedded encoder.

    Raises:
        McdoError: for a file that is none, and an encoder without a recipe of its own; it says how to make one.

    """
    if str(path).startswith(SHIPPED):
        return AppliedRecipe(read_recipe(shipped(str(path).removeprefix(SHIPPED))))
    return AppliedRecipe(read_recipe(path))


def shipped(key: str) -> Path:
    """Where the recipe of an embedded encoder is. Raises McdoError for any other key."""
    from mcdo.encoders.spec import MODELS_DIR

    place = MODELS_DIR / key / "recipe.json"
    known = sorted(each.parent.name for each in MODELS_DIR.glob("*/recipe.json"))
    if key not in known:
        raise McdoError(f"no recipe ships for {key!r}; there are {', '.join(known) or 'none'}. For any encoder, {MAKE}")
    return place


def chunk_size(resolution: int) -> int:
    """Images that are scored at a time, by the bytes of their pixels."""
    return max(1, min(_CHUNK, _PIXELS // (3 * resolution**2)))


def quantile_within(scores: Array, quantiles: Array) -> Array:
    """Share of the calibration set that scores lower, [N]; between its scores linear, at equal ones their middle."""
    levels = np.linspace(0, 1, len(quantiles))
    inside = np.interp(scores, quantiles, levels)
    first, last = (np.searchsorted(quantiles, scores, side=side) for side in ("left", "right"))
    equal = last > first
    inside[equal] = (levels[first[equal]] + levels[last[equal] - 1]) / 2
    return np.asarray(inside)


def _share_outside(outside: NDArray[np.bool_], origins: Sequence[str]) -> Estimate:
    """The share; one original alone, such as a single photo, is scored as well and gives no interval."""
    if len(set(origins)) > 1:
        return share(outside, origins=origins)
    return Estimate(float(outside.mean()), math.nan, math.nan, 1, reason="one original")


def chance_outside(outside: int, n: int, calibrated: int) -> float:
    """How likely ``outside`` or more of ``n`` originals lie beyond the ends of ``calibrated`` others of their kind.

    The ends are a sample's too: the share beyond them is Beta(2, calibrated − 1) from one calibration set to another
    (Wilks 1941), and not always its mean.
    """
    from scipy import stats

    return float(stats.betabinom.sf(outside - 1, n, 2, calibrated - 1)) if outside and calibrated > 1 else 1.0


def threshold_of(recipe: Recipe, false_alarm: float) -> float:
    """The score that images such as those of the calibration set exceed with probability ``false_alarm`` at most.

    Raises:
        McdoError: for a rate outside (0, 1), or one that the calibration set is too small for.

    """
    if not 0 < false_alarm < 1:
        raise McdoError(f"false alarm {false_alarm:g}: give a rate strictly between 0 and 1, such as 0.05")
    held = recipe.calibration
    quantiles, n = held.quantiles, held.origins
    place = math.ceil((n + 1) * (1 - false_alarm) - 1e-9)
    if place > n:
        raise McdoError(
            f"false alarm {false_alarm:g}: the recipe was calibrated on {n} originals, which can show no rate below "
            f"{1 / (n + 1):.2g}; ask for more, or make a recipe on more images"
        )
    # of fewer numbers than originals (a grid of quantiles), or more (several images of one), the next one above
    level = (place - 1) / (n - 1) if n > 1 else 1.0
    return float(quantiles[math.ceil(level * (len(quantiles) - 1) - 1e-9)])


def equivalents(response: Response, scores: Array, errors: Array, freedom: int) -> Equivalents:
    """The severities at which the mean log score of the calibration set is each of ``scores`` [N].

    The interval at 95 % holds all severities whose band, or whose curve under an error of the score, reaches it. An
    error that few repetitions gave is little known itself, so its ``freedom`` counts: Student's t, which is exact where
    the score is the mean of all of them and wider than needed where it is one of them.
    """
    from scipy import special

    none = np.full(len(scores), math.nan)
    largest = response.severities[-1]
    known = all(end is not None for each in response.fitted for end in (each.value, each.low, each.high))
    if response.shape != "rising" or not known:
        reason = response.reason or (f"the response is {response.shape}" if known else "its band is not defined")
        return Equivalents(response.family, response.unit, none, none, none, largest, reason)
    bands = np.array([[each.value, each.low, each.high] for each in response.fitted], dtype=np.float64)
    curve, low, high = np.maximum.accumulate(bands).T
    arm = float(special.stdtrit(max(freedom, 1), 0.975)) * np.where(np.isnan(errors), 0.0, errors)
    with np.errstate(divide="ignore", invalid="ignore"):
        log, below, above = (np.log(np.maximum(each, 0.0)) for each in (scores, scores - arm, scores + arm))
    x = np.array(response.severities)
    return Equivalents(
        response.family,
        response.unit,
        _read(curve, x, log),
        _read(high, x, below),
        _read(low, x, above),
        largest,
        "",
    )


def _read(curve: Array, severities: Array, logs: Array) -> Array:
    """The severity at which a non-decreasing curve reaches each value; 0 below it, infinite above it."""
    first = np.searchsorted(curve, logs).clip(max=len(curve) - 1)
    inside = np.where(curve[first] == logs, severities[first], np.interp(logs, curve, severities))
    return np.asarray(np.where(logs > curve[-1], math.inf, np.where(logs <= curve[0], 0.0, inside)))


def _needs_passes(score: str) -> bool:
    from mcdo.estimators.score_table import needs_passes

    return needs_passes(score)


def check_out(path: Path) -> None:
    """Raise McdoError unless :meth:`RecipeScores.write` can write there: to be asked before a pass is paid for."""
    from mcdo.report.files import check_file

    if _form(path) == "parquet":
        from mcdo.report.export import frame

        frame([], ())
        if find_spec("pyarrow") is None:
            raise McdoError('Parquet needs pyarrow: pip install "mcdo[frames]", or name a .csv')
    check_file(path)


def _form(path: Path) -> Literal["csv", "parquet"]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise McdoError(f"{path}: name a file that ends in .csv or .parquet")
    return "csv" if suffix == ".csv" else "parquet"


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


class _Whole:
    """The progress of all chunks as one; chunks that are found in the store count at once."""

    def __init__(self, images: ImageSet, cost: int, shown: bool) -> None:
        self._cost, self._done, self._lock = cost, 0, threading.Lock()
        what = f"{images.name}, {len(images)} images"
        self._bar = Progress(len(images) * cost, what) if shown else Silent()

    def __enter__(self) -> _Whole:
        self._bar.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._bar.__exit__(*ended)

    def part(self, total: int, what: str, unit: str) -> Progress:
        """The progress of one chunk."""
        return _Part(self)

    def update(self, passes: int) -> None:
        """Count passes of a chunk."""
        with self._lock:
            self._done += passes
        self._bar.update(passes)

    def finish(self, images: int) -> None:
        """So many images are done, however that came about."""
        self.update(images * self._cost - self._done)


class _Part(Silent):
    """Counts for the whole."""

    def __init__(self, whole: _Whole) -> None:
        self._whole = whole

    def __enter__(self) -> _Part:
        return self

    def update(self, passes: int) -> None:
        """Count for the whole."""
        self._whole.update(passes)
