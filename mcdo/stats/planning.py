"""How much is enough? Images, trials and passes at which a claim is decided, from a pilot or from assumptions.

A pilot knows the figure up to an error, and the run that is planned will have an error of its own; both count. In units
of the pilot's standard error, a run with r times its originals gives a figure X ~ N(D, 1 + 1/r), D from the bar, and is
decided where X lies further than t/√r from it. The size is the smallest at which that has the probability asked for
(*assurance*: O'Hagan, Stevens & Campbell 2005). Planning as if the pilot's figure were the truth decides less often
than it says: in simulation (a truth at 1, 2 and 4 standard errors from the bar) .63, .74 and .79 of runs where .80 are
asked for; this rule .83, .84 and .82.

What changes with the size:

- originals N: errors fall as 1/√N, whatever the figure.
- passes T: noise falls as 1/T, and ρ and ICC rise by the laws of :mod:`mcdo.stats.prediction`, whose disagreement is
  part of what the pilot does not know.
- trials K: the error of ρ goes with 2(1 + (K − 1)ρ)²/(K(K − 1)(1 + ρ)²), that of log SNR with K/(K − 1), as in normal
  populations (Donner 1986); what the pilot's own error has beyond the normal one (heavy tails, skewed images) stays as
  a factor. Noise that the images of a trial share does not fall with N at all: it is kept apart, as in
  :class:`~mcdo.stats.confidence.Confidence`. A run that asks its data for such noise sees some where there is none in a
  tenth of all cases, and then decides less; that is reckoned with, and takes a quarter more originals at K = 5.

**Not everything can be decided**: a figure at its bar never is, and from a pilot near it more than ``most`` originals
may be asked for. :class:`Need` then says how far from the bar the estimate lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import scipy

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats.confidence import Confidence
from mcdo.stats.detection import LEAST_CLASS
from mcdo.stats.growth import ENDS
from mcdo.stats.pilot import Pilot, Run, normal_spearman
from mcdo.stats.reliability import SHARING_ALPHA, Reliability
from mcdo.stats.resampling import LEAST_UNITS, Direction, Estimate, IntervalOutcome, Origins
from mcdo.stats.signal_noise import odds_of, snr_from_icc
from mcdo.stats.status import THRESHOLDS

POWER = 0.85
"""Probability with which a planned run decides; .80 is promised, and the rest is for what the formulas leave out."""
MOST = 100_000
"""Originals above which nothing is planned."""
LEAST = 100
"""Originals below which Phase 1 gives no verdict."""
TRIALS = (5, 10, 20)
"""K to choose from: with fewer than five, noise that the images of a trial share often goes unseen."""
_LARGEST_Z = 15.0  # of Fisher's z
_LARGEST_TANH = math.tanh(_LARGEST_Z)
_LARGEST_LOG = 60.0

State = Literal["decided", "attainable", "out of reach"]


@dataclass(frozen=True)
class Size:
    """A run of N ``images``, K ``trials`` and T ``passes``; images count as originals."""

    images: int
    trials: int
    passes: int

    @property
    def total(self) -> int:
        """Passes of one image in all, N·K·T."""
        return self.images * self.trials * self.passes


@dataclass(frozen=True)
class Need:
    """What it takes to decide a claim.

    Attributes:
        state: "decided" by the pilot itself, "attainable" with ``size``, or "out of reach".
        outcome: how it is decided, or most likely will be; "undecided" where that is open.
        size: the smallest that was found; the pilot's where it is decided, None where it is out of reach.
        chance: with which a run of that size decides it; 1 where it is decided.
        distance: of the estimate from its nearest bar, in the figure's own units.
        reason: why it is out of reach, or what the size should not be trusted for; may be empty.

    """

    state: State
    outcome: IntervalOutcome
    size: Size | None
    chance: float
    distance: float
    reason: str = ""


def chance_decided(value: float, known: float, error: float, bars: Sequence[float], level: float = 0.95) -> float:
    """Probability that an interval ends on one side of every bar: "met" or "not met", whichever.

    Args:
        value: what the figure is thought to be.
        known: standard error of that.
        error: standard error in the run that is planned.
        bars: one, or the two ends of a range that is claimed to hold the whole interval.
        level: of the interval.

    """
    spread, arm = math.hypot(known, error), float(scipy.special.ndtri((1 + level) / 2)) * error
    low, high = min(bars), max(bars)
    chance = _above(value, spread, high + arm) + _below(value, spread, low - arm)
    if len(bars) > 1 and high - low > 2 * arm:
        chance += 1 - _above(value, spread, high - arm) - _below(value, spread, low + arm)
    return chance


def needed_images(
    estimate: Estimate,
    bars: Sequence[float],
    measured: Size,
    *,
    power: float = POWER,
    most: int = MOST,
    direction: Direction = ">=",
) -> Need:
    """Originals that decide a claim about one figure, at the trials and passes of the pilot.

    For any figure whose error falls as 1/√n: a correlation, an AUROC, a share of images raised, a mean.

    Args:
        estimate: the pilot's, with its interval over ``estimate.n`` originals.
        bars: one, or both ends of a range.
        measured: the pilot's size.
        power: probability with which the planned run decides.
        most: originals above which the claim is out of reach.
        direction: in which the claim lies from its one bar.

    Raises:
        McdoError: for a power outside (0, 1), or no bar.

    """
    _check(power)
    if not bars:
        raise McdoError("a claim without a bar cannot be planned for; give one, or the two ends of a range")
    outcome = _outcome(estimate, bars, direction)
    nearest = min(bars, key=lambda bar: abs(estimate.value - bar))
    distance = abs(estimate.value - nearest)
    if outcome != "undecided":
        return Need("decided", outcome, measured, 1.0, distance)
    if not estimate.has_interval or not math.isfinite(estimate.high - estimate.low):
        why = estimate.reason or "an interval is needed to plan with"
        return Need("out of reach", "undecided", None, 0.0, distance, f"the pilot gives no interval: {why}")
    arm = estimate.value - estimate.low if nearest < estimate.value else estimate.high - estimate.value
    known = arm / float(scipy.special.ndtri((1 + estimate.level) / 2))

    def chance(n: int) -> float:
        return chance_decided(estimate.value, known, known * math.sqrt(estimate.n / n), bars, estimate.level)

    n = _smallest(lambda n: chance(n) >= power, 3, most)
    if n is None:
        return Need("out of reach", "undecided", None, chance(most), distance, _near(distance, estimate, nearest, most))
    size = Size(n, measured.trials, measured.passes)
    return Need("attainable", _likely(estimate.value, bars, direction), size, chance(n), distance)


def normal_error(figure: Literal["rho", "share", "auroc"], value: float, n: int, positive: float = 0.1) -> float:
    """Standard error that a figure of ``value`` has from ``n`` originals, as theory says.

    A rank correlation of normals (Bonett & Wright 2000), a share, or an AUROC (Hanley & McNeil 1982) with the share
    ``positive`` of the originals in its class.

    Raises:
        McdoError: for a value that the figure cannot have, too few originals, or a share outside (0, 1).

    """
    arguments.whole("n", n, least=4)
    _check(positive, "positive")
    low = -1 if figure == "rho" else 0
    if not low < value < 1:
        raise McdoError(f"{figure} = {value:g}: assume a value strictly between {low} and 1")
    if figure == "rho":
        return (1 - value**2) * math.sqrt((1 + value**2 / 2) / (n - 3))
    if figure == "share":
        return math.sqrt(value * (1 - value) / n)
    ones, zeros = positive * n, (1 - positive) * n
    both, other = value / (2 - value) - value**2, 2 * value**2 / (1 + value) - value**2
    return math.sqrt((value * (1 - value) + (ones - 1) * both + (zeros - 1) * other) / (ones * zeros))


def needed_for_assumed(
    figure: Literal["rho", "share", "auroc"],
    value: float,
    bar: float,
    passes: int,
    *,
    power: float = POWER,
    most: int = MOST,
    positive: float = 0.1,
    direction: Direction = ">=",
) -> Need:
    """Originals that decide a claim about a figure of which only the ``value`` is assumed, in runs of ``passes``.

    Far from the bar few originals decide, and intervals of few are not the value and a normal error on either side. A
    correlation is planned for on Fisher's z and an AUROC on the logit scale, as their intervals are; Wilson's interval
    of a share is clear of the bar where a share at the bar would seldom have come out so, by the bar's own error.

    Raises:
        McdoError: as :func:`normal_error`, and for a power outside (0, 1) or a bar that the figure cannot have.

    """
    _check(power)
    normal_error(figure, bar, LEAST_UNITS, positive)
    scale = {"rho": math.atanh, "auroc": scipy.special.logit, "share": float}[figure]
    slope = {"rho": 1 - value**2, "auroc": value * (1 - value), "share": 1.0}[figure]
    at, goal = float(scale(value)), float(scale(bar))
    counting = min(positive, 1 - positive) if figure == "auroc" else 1.0  # share of the originals
    least = math.ceil(LEAST_CLASS / counting - 1e-9) if figure == "auroc" else LEAST_UNITS

    def chance(n: int) -> float:
        error = normal_error(figure, value, n, positive) / slope
        if figure == "share":
            arm = float(scipy.special.ndtri(0.975)) * normal_error(figure, bar, n)
        else:
            arm = float(scipy.special.stdtrit(counting * n - 1, 0.975)) * error
        return _above(at, error, goal + arm) + _below(at, error, goal - arm)

    assumed, n = Estimate(value, value, value, 0), _smallest(lambda n: chance(n) >= power, least, most)
    if n is None:
        reason = _near(abs(value - bar), assumed, bar, most)
        return Need("out of reach", "undecided", None, chance(most), abs(value - bar), reason)
    likely = _likely(value, [bar], direction)
    return Need("attainable", likely, Size(n, 1, passes), chance(n), abs(value - bar))


@dataclass(frozen=True)
class Margin:
    """One figure of reliability as it is expected in a run.

    Attributes:
        expected: confidence limits around the expected figure, as the run would state them.
        known: standard error of the expectation, on the working scale, towards the bar.
        bar: in the figure's own units.
        mistaken: share of the noise that images of one trial seem to have in common where that is a mistake, as the
            run's own question makes in :data:`~mcdo.stats.reliability.SHARING_ALPHA` of runs; 0: it is not asked.

    """

    expected: Confidence
    known: float
    bar: float
    mistaken: float = 0.0

    def above(self, confidence: float) -> float:
        """Probability that the run's lower limit at one-sided ``confidence`` lies above the bar."""
        return self._mixed(lambda expected: self._above(expected, confidence))

    def below(self, confidence: float) -> float:
        """Probability that its upper limit lies below the bar."""
        return self._mixed(lambda expected: self._below(expected, confidence))

    def _mixed(self, chance: Callable[[Confidence], float]) -> float:
        usual = chance(self.expected)
        if not self.mistaken:
            return usual
        return (1 - SHARING_ALPHA) * usual + SHARING_ALPHA * chance(replace(self.expected, shared=self.mistaken))

    def _above(self, expected: Confidence, confidence: float) -> float:
        arm = expected.centre - self._working(expected.lower(confidence))
        return _above(expected.centre, self._spread(confidence), self._working(self.bar) + arm)

    def _below(self, expected: Confidence, confidence: float) -> float:
        arm = self._working(expected.upper(confidence)) - expected.centre
        return _below(expected.centre, self._spread(confidence, up=True), self._working(self.bar) - arm)

    def _spread(self, confidence: float, *, up: bool = False) -> float:
        """Of the run's figure: the pilot's error and the run's own."""
        limit = self._working(self.expected.upper(confidence) if up else self.expected.lower(confidence))
        return math.hypot(self.known, (limit - self.expected.centre) / float(scipy.special.ndtri(confidence)))

    def _working(self, figure: float) -> float:
        return _working(self.expected.scale, figure)


class Forecast(Protocol):
    """What is expected of the reliability of one score in runs of other sizes."""

    @property
    def passes(self) -> int:
        """T of what it starts from."""

    def margins(self, size: Size) -> Mapping[str, Margin]:
        """ρ ("spearman") and SNR ("snr"), the latter against its bar and that of ICC, in a run of that size."""

    def caution(self, passes: int) -> str:
        """Why single values at T are not to be trusted, or nothing."""


class PilotForecast:
    """From a pilot run: figures by its laws, errors by its own.

    Args:
        run: scores [K, N], or by T, as in :func:`~mcdo.stats.predicted_reliability`; K >= 3.
        passes: the largest T.
        origins: the original of each image, [N].
        shared_noise: as in :func:`~mcdo.stats.reliability`.
        seed: of the bootstrap.

    Raises:
        McdoError: for a run without intervals, such as one of fewer than three trials.

    """

    def __init__(
        self,
        run: Run,
        passes: int,
        *,
        origins: Origins | None = None,
        shared_noise: bool | None = None,
        seed: int = 0,
    ) -> None:
        self._passes, self._shared_noise = passes, shared_noise
        self._pilot = Pilot.of(run, passes, origins, 0, shared_noise, seed)
        if self._pilot.run.reason:
            raise McdoError(f"no plan from this pilot: {self._pilot.run.reason}")

    @property
    def passes(self) -> int:
        """T of what it starts from."""
        return self._passes

    @property
    def measured(self) -> Reliability:
        """The pilot's figures there."""
        return self._pilot.run

    def caution(self, passes: int) -> str:
        """Why single values at T are not to be trusted, or nothing."""
        return self._pilot.reason(passes)

    def margins(self, size: Size) -> Mapping[str, Margin]:
        """ρ and SNR as they are expected in a run of that size. Raises McdoError for trials that give no interval."""
        _check_trials(size.trials, self._shared_noise is False, "shared_noise=False")
        run = self._pilot.run
        at = self._pilot.measured.get(size.passes)
        rho = at.estimate("spearman") if at else self._pilot.figure("spearman", size.passes)
        icc = self._pilot.figure("icc", size.passes)
        more = size.images / run.n_origins
        of_rho = math.sqrt(_rho_variance(rho.value, size.trials) / _rho_variance(run.spearman, run.n_trials) / more)
        of_snr = math.sqrt(_snr_variance(size.trials) / _snr_variance(run.n_trials) / more)
        value, low, high = (snr_from_icc(getattr(icc, end), size.trials) for end in ENDS)
        snr = Estimate(value, low, high, icc.n, icc.level)
        bars = _bars(size.trials)

        def margin(name: str, found: Estimate, pilot: Confidence, scale: float) -> Margin:
            return Margin(
                replace(
                    pilot,
                    centre=_working(pilot.scale, found.value),
                    below=pilot.below * scale,
                    above=pilot.above * scale,
                    freedom=max(1.0, pilot.freedom * more),
                    trials=size.trials,
                ),
                _known(found, bars[name], pilot.scale),
                bars[name],
                0.0 if pilot.shared or self._shared_noise is not None else _mistaken(size),
            )

        return {
            "spearman": margin("spearman", rho, run.spearman_confidence, of_rho),
            "snr": margin("snr", snr, run.snr_confidence, of_snr),
        }


@dataclass(frozen=True)
class AssumedForecast:
    """From an assumption: normal images and noise, and nothing in doubt.

    Attributes:
        spearman: ρ between two trials.
        passes: T at which that is so.
        independent: whether the run is told that images of one trial share no noise; else it asks.

    """

    spearman: float
    passes: int
    independent: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.spearman < 1 or self.passes < 2:
            raise McdoError(f"spearman={self.spearman}, passes={self.passes}: assume 0 < spearman < 1 and passes >= 2")

    def caution(self, passes: int) -> str:
        """Nothing: it is an assumption."""
        return ""

    def margins(self, size: Size) -> Mapping[str, Margin]:
        """ρ and SNR as they are in a normal population. Raises McdoError for trials that give no interval."""
        _check_trials(size.trials, self.independent, "independent=True")
        odds = odds_of(2 * math.sin(math.pi * self.spearman / 6)) * size.passes / self.passes
        icc = odds / (1 + odds)
        rho, n = normal_spearman(icc), size.images
        of_rho = math.sqrt((1 + rho**2 / 2) / max(n - 3, 1) * _rho_variance(rho, size.trials))  # Bonett & Wright 2000
        of_snr = math.sqrt(2 / max(n - 1, 1) * _snr_variance(size.trials))
        bars = _bars(size.trials)

        def margin(name: str, scale: Literal["log", "z"], value: float, error: float) -> Margin:
            centre = _working(scale, value)
            expected = Confidence(centre, error, error, max(n - 1, 1), scale, size.trials)
            return Margin(expected, 0.0, bars[name], 0.0 if self.independent else _mistaken(size))

        return {
            "spearman": margin("spearman", "z", rho, of_rho),
            "snr": margin("snr", "log", snr_from_icc(icc, size.trials), of_snr),
        }


UNKNOWN = tuple(AssumedForecast(tenths / 10, 64) for tenths in range(5, 10))
"""What may be before anything is measured: ρ of .5 to .9 between two trials of 64 passes, each as likely."""


def chance_usable(margins: Mapping[str, Margin], alpha: float = 0.05) -> float:
    """Probability that all figures are met at one-sided ``alpha``, as :func:`~mcdo.stats.usable_cells` decides.

    Their product: figures of one run err in the same direction, so together they are met at least as often (Slepian
    1962).
    """
    return math.prod(margin.above(1 - alpha) for margin in margins.values())


def chance_unusable(margins: Mapping[str, Margin]) -> float:
    """Probability that one of the figures lies below its bar with its whole interval, at least."""
    return max(margin.below(0.975) for margin in margins.values())


def chance_judged(forecast: Forecast, size: Size, alpha: float = 0.05, *, last: bool = True) -> float:
    """Probability that a run of that size decides whether a score is usable.

    Either way where its passes are the ``last``, the most that are thought of; with fewer, that it is not usable yet
    decides nothing.
    """
    margins = forecast.margins(size)
    return min(1.0, chance_usable(margins, alpha) + (chance_unusable(margins) if last else 0.0))


def needed_for_usable(
    forecast: Forecast,
    *,
    alpha: float = 0.05,
    power: float = POWER,
    trials: Iterable[int] = TRIALS,
    passes: Iterable[int] = (),
    most: int = MOST,
    least: int = LEAST,
) -> Need:
    """The fewest passes in all, N·K·T, at which a score is decided to be usable; else those at which it is not.

    Args:
        forecast: of the score.
        alpha: one-sided, the chain's share of the family's (see :mod:`mcdo.stats.decision`).
        power: probability with which the planned run decides.
        trials: K to choose from.
        passes: T to choose from; empty: 4, 8, ... up to sixteen times the pilot's.
        most: originals above which nothing is planned.
        least: originals that are planned for at least.

    Raises:
        McdoError: for a power or an alpha outside (0, 1), fewer than two passes or no trials, and trials whose run has
            no interval: one, or two where it isn't known that the images of a trial share no noise.

    """
    _check(power)
    _check(alpha, "alpha")
    ladder = [2**i for i in range(2, 1 + int(math.log2(16 * forecast.passes)))]
    grid = sorted(arguments.whole("passes", T, least=2) for T in passes) or ladder
    ks = sorted(arguments.whole("trials", K, least=1) for K in trials)
    if not ks:
        raise McdoError("there are no trials to choose from; give some, such as (5, 10, 20)")
    rho = forecast.margins(Size(least, ks[0], forecast.passes))["spearman"]
    distance = abs(math.tanh(rho.expected.centre) - rho.bar)

    def found(T: int, K: int, chance: Callable[[Size], float], budget: float) -> Size | None:
        top = int(min(most, budget / (K * T)))
        n = _smallest(lambda n: chance(Size(n, K, T)) >= power, least, top)
        return None if n is None else Size(n, K, T)

    def usable(size: Size) -> float:
        return chance_usable(forecast.margins(size), alpha)

    best: Size | None = None
    for T in grid:
        for K in ks:
            best = found(T, K, usable, math.inf if best is None else best.total - 1) or best
    if best is not None:
        return Need("attainable", "met", best, usable(best), distance, forecast.caution(best.passes))

    def unusable(size: Size) -> float:
        return chance_unusable(forecast.margins(size))

    T = grid[-1]
    others = [size for K in ks if (size := found(T, K, unusable, math.inf)) is not None]
    if others:
        size = min(others, key=lambda each: each.total)
        reason = f"more passes do not make it usable, up to T={T}"
        return Need("attainable", "not met", size, unusable(size), distance, reason)
    largest = Size(most, ks[-1], T)
    chance = max(usable(largest), unusable(largest))
    reason = (
        f"not with {most:,} originals, {ks[-1]} trials and up to {T} passes: at T={forecast.passes} the estimate "
        f"ρ = {math.tanh(rho.expected.centre):.3f} is within {distance:.3f} of the bar"
    )
    said = "; ".join(filter(None, (reason, forecast.caution(T))))
    return Need("out of reach", "undecided", None, chance, distance, said)


def _check(probability: float, name: str = "power") -> None:
    if not 0 < probability < 1:
        raise McdoError(f"{name} {probability}; give a probability strictly between 0 and 1")


def _check_trials(K: int, independent: bool, remedy: str) -> None:
    """Refuse a run that will have no interval, as :func:`mcdo.stats.reliability` gives none."""
    if K < 2:
        raise McdoError(f"a run of K={K} repeats nothing, and decides nothing; plan for at least three trials")
    if K == 2 and not independent:
        raise McdoError(
            "a run of two trials decides nothing, for they cannot show how much of the noise images of a trial share; "
            f"plan for at least three, or with {remedy} where every image has masks of its own"
        )


def _outcome(estimate: Estimate, bars: Sequence[float], direction: Direction) -> IntervalOutcome:
    low, high = min(bars), max(bars)
    if not estimate.has_interval:
        return "undecided"
    if len(bars) > 1:
        if low <= estimate.low and estimate.high <= high:
            return "met"
        return "not met" if estimate.low > high or estimate.high < low else "undecided"
    return estimate.outcome(low, direction)


def _likely(value: float, bars: Sequence[float], direction: Direction) -> IntervalOutcome:
    return _outcome(Estimate(value, value, value, 0), bars, direction)


def _near(distance: float, estimate: Estimate, bar: float, most: int) -> str:
    return f"not with {most:,} originals: the estimate {estimate.value:.3f} is within {distance:.3f} of the bar {bar:g}"


def _smallest(enough: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest n in [least, most] from which on ``enough`` holds, as it is monotone."""
    if most < least or not enough(most):
        return None
    if enough(least):
        return least
    low, high = least, most
    while high - low > max(1, low // 200):  # to half a per cent: nobody counts images closer
        middle = int(math.sqrt(low * high)) if high > 2 * low else (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _rho_variance(rho: float, K: int) -> float:
    """Variance of Fisher's z of the mean of all pairs of K trials over that of one pair."""
    r = min(max(rho, 0.0), 1.0)
    return float(2 * (1 + (K - 1) * r) ** 2 / (K * (K - 1) * (1 + r) ** 2))


def _snr_variance(K: int) -> float:
    """Variance of log SNR, an F of n − 1 and n(K − 1) degrees of freedom, over 2/n."""
    return K / (K - 1)


def _mistaken(size: Size) -> float:
    """Share of common noise that independent trials seem to have, where they seem to have any.

    By chance it is about √((K + 1)/((K − 1)N)) (:func:`mcdo.stats.sharing.noise_sharing`); at the median of the p that
    are taken for a sign of it, larger by √(χ²/df).
    """
    K, freedom = size.trials, size.trials * (size.trials - 1) / 2 - 1
    larger = float(scipy.special.chdtri(freedom, SHARING_ALPHA / 2)) / freedom
    return min(1.0, math.sqrt((K + 1) / ((K - 1) * size.images) * larger))


def _bars(K: int) -> dict[str, float]:
    snr = max(THRESHOLDS.usable_snr, snr_from_icc(THRESHOLDS.usable_icc, K))
    return {"spearman": THRESHOLDS.usable_spearman, "snr": snr}


def _known(found: Estimate, bar: float, scale: Literal["log", "z"]) -> float:
    """Standard error of a prediction towards the bar, on the working scale."""
    end = found.low if found.value > bar else found.high
    arm = abs(_working(scale, found.value) - _working(scale, end))
    return arm / float(scipy.special.ndtri((1 + found.level) / 2))


def _working(scale: Literal["log", "z"], figure: float) -> float:
    """Fisher's z of a correlation, or the logarithm of a ratio; bounded, so that differences are numbers."""
    if scale == "z":
        return math.atanh(figure) if abs(figure) < _LARGEST_TANH else math.copysign(_LARGEST_Z, figure)
    return (
        max(-_LARGEST_LOG, min(_LARGEST_LOG, math.log(figure)))
        if 0 < figure < math.inf
        else (math.copysign(_LARGEST_LOG, figure) if figure else -_LARGEST_LOG)
    )


def _above(value: float, spread: float, bar: float) -> float:
    """P(X > bar) for X ~ N(value, spread²)."""
    return float(scipy.special.ndtr((value - bar) / spread)) if spread > 0 else float(value > bar)


def _below(value: float, spread: float, bar: float) -> float:
    return float(scipy.special.ndtr((bar - value) / spread)) if spread > 0 else float(value < bar)
