"""Does the score repeat? Reliability of scores ``[K, N]``: K trials (independent Monte Carlo runs) on N images.

Spearman between trials asks whether the ranking repeats; SNR and ICC ask how much of the spread is the images'
own. SNR and ICC carry the same information, ICC = (K SNR − 1)/(K SNR + K − 1); under pure noise SNR tends to 1/K,
which is why the noise-corrected SNR stands beside it.

**Intervals.** Two things could have come out differently: the images and the trials.

- Images, through the origins that were sampled. When noise is independent from image to image (masks keyed by image), a
  column of K scores is one draw, so this is the whole uncertainty, the trials' share included. ρ: standard error of
  the median pair over resamples, Student's t on Fisher's z (:mod:`mcdo.stats.rank_influence`), at Kish's number of
  origins, since a few large ones say less than as many equal ones. SNR: bootstrap-t on log
  SNR (Efron 1982, Hall 1988), with quantiles stretched by the t of Satterthwaite's degrees of freedom, 2n/(κ − 1) for
  influence values of kurtosis κ: where a few images carry the variance, the standard error is not known either. And
  each arm reckons with one more unit as extreme as the most extreme one, which no resample holds.
- Trials: whatever images of one trial share (tied masks, a drift from trial to trial) is invisible to a bootstrap
  over images. :mod:`mcdo.stats.sharing` asks the data, for the scores and for their ranks; at p < SHARING_ALPHA, or
  where the caller says so, the arms are lengthened by what a variance from K − 1 trials leaves open
  (:mod:`mcdo.stats.confidence`). Two trials cannot show it: there is no interval then, and ``reason`` says so.

ICC and corrected SNR are monotone in SNR at a given K; so are their intervals, and the three never disagree.

**Coverage** of the 95 % intervals in simulation stands on the page docs/coverage.md. With K = 3 sharing goes unseen
where the trials' common parts happen to lie close together, in one to three of ten such data sets, and the interval is
then that of images alone. The price of asking: one data set in ten with independent noise is widened as well, at K = 3
so much that it decides nothing; ``shared_noise=False`` saves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError, nearest
from mcdo.stats._checks import Array, jsonable, of_order_one, trial_mean, trials
from mcdo.stats.association import nearly_constant
from mcdo.stats.confidence import Confidence
from mcdo.stats.rank_influence import spearman_confidence, spearman_influence
from mcdo.stats.ranks import mid_ranks
from mcdo.stats.resampling import Estimate, IntervalOutcome, Origins, Units, check_resampling
from mcdo.stats.sharing import noise_sharing
from mcdo.stats.signal_noise import icc_from_snr, signal_noise, snr_confidence, snr_from_icc
from mcdo.stats.status import THRESHOLDS, Status, Thresholds, status_of

Interval = tuple[float, float]
SHARING_ALPHA = 0.1
"""Noise counts as shared within trials where independence has a p below this."""
_NO_RATIO = "the mean over trials is the same for every image"
_NO_RANKING = "a trial gives every image the same score, which is no ranking"
_UNKNOWN = Confidence(math.nan, math.nan, math.nan, 1, "z", 1)


@dataclass(frozen=True)
class Reliability:
    """What :func:`reliability` measured; ``*_ci`` are (low, high) at ``level``, NaN where undefined.

    ``reason`` says why there is no interval, and is empty where there is one. ``*_confidence`` hold the limits at every
    other level.
    """

    spearman: float
    spearman_q25: float
    spearman_q75: float
    snr: float
    icc: float
    signal: float
    noise: float
    n_trials: int
    n_images: int
    n_origins: int
    status: Status
    spearman_confidence: Confidence
    snr_confidence: Confidence
    level: float = 0.95
    reason: str = ""
    thresholds: Thresholds = THRESHOLDS

    @property
    def snr_corrected(self) -> float:
        """(signal − noise/K)/noise: zero under pure noise."""
        return self.snr - 1 / self.n_trials

    @property
    def spearman_ci(self) -> Interval:
        """Interval of ``spearman`` at ``level``."""
        return self.spearman_confidence.interval(self.level)

    @property
    def snr_ci(self) -> Interval:
        """Interval of ``snr`` at ``level``."""
        return self.snr_confidence.interval(self.level)

    @property
    def snr_corrected_ci(self) -> Interval:
        """Interval of ``snr_corrected`` at ``level``."""
        low, high = self.snr_ci
        return low - 1 / self.n_trials, high - 1 / self.n_trials

    @property
    def icc_ci(self) -> Interval:
        """Interval of ``icc`` at ``level``."""
        low, high = self.snr_ci
        return icc_from_snr(low, self.n_trials), icc_from_snr(high, self.n_trials)

    def estimate(self, name: str) -> Estimate:
        """``spearman``, ``snr``, ``snr_corrected`` or ``icc`` with its interval and the number of origins."""
        known = ("spearman", "snr", "snr_corrected", "icc")
        if name not in known:
            raise McdoError(f"no estimate {name!r}; nearest: {nearest(name, known)}")
        low, high = getattr(self, f"{name}_ci")
        return Estimate(getattr(self, name), low, high, self.n_origins, self.level)

    def decision(self, level: float | None = None) -> IntervalOutcome:
        """Whether the score is usable, by the intervals at ``level`` (None: the reliability's own).

        "met" where all three lie above their bars, "not met" where one lies below its own, else "undecided". No
        correction over the three: a wrong "met" needs all of them to miss (intersection–union test, Berger 1982).
        """
        r = self if level is None else replace(self, level=level)
        bars = self.thresholds
        outcomes = {
            r.estimate("spearman").outcome(bars.usable_spearman),
            r.estimate("snr").outcome(bars.usable_snr),
            r.estimate("icc").outcome(bars.usable_icc),
        }
        return "not met" if "not met" in outcomes else "undecided" if "undecided" in outcomes else "met"

    @property
    def p_usable(self) -> float:
        """One-sided p of "not usable": the largest of the three; ``decision(1 − 2 p)`` is where "met" begins."""
        bars, K = self.thresholds, self.n_trials
        snr = max(bars.usable_snr, snr_from_icc(bars.usable_icc, K) if K > 1 else math.nan)
        ps = self.spearman_confidence.p(bars.usable_spearman), self.snr_confidence.p(snr)
        return math.nan if any(math.isnan(p) for p in ps) else max(ps)

    @property
    def brief(self) -> str:
        """SNR, ICC and status, in words."""
        return f"SNR {self.snr:.2f}, ICC {self.icc:.2f}, {self.status}"

    def as_dict(self) -> dict[str, Any]:
        """For strict JSON, with the published keys; NaN and infinity (no noise at all: see ``noise``) become None."""
        numbers = {
            "snr": self.snr,
            "icc": self.icc,
            "pairwise_spearman_median": self.spearman,
            "pairwise_spearman_q25": self.spearman_q25,
            "pairwise_spearman_q75": self.spearman_q75,
            "pairwise_spearman_iqr": self.spearman_q75 - self.spearman_q25,
            "signal": self.signal,
            "noise": self.noise,
            "snr_corrected": self.snr_corrected,
            "p_usable": self.p_usable,
        }
        intervals = {
            "pairwise_spearman_median_ci": self.spearman_ci,
            "snr_ci": self.snr_ci,
            "icc_ci": self.icc_ci,
            "snr_corrected_ci": self.snr_corrected_ci,
        }
        return {
            **{key: jsonable(value) for key, value in numbers.items()},
            "status": self.status,
            "decision": self.decision(),
            "reason": self.reason,
            **{key: [jsonable(end) for end in ends] for key, ends in intervals.items()},
            "n_trials": self.n_trials,
            "n_images": self.n_images,
            "n_origins": self.n_origins,
            "level": self.level,
        }


def reliability(
    scores: ArrayLike,
    *,
    origins: Origins | None = None,
    shared_noise: bool | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    thresholds: Thresholds = THRESHOLDS,
) -> Reliability:
    """Reliability of ``scores`` [K, N], K trials of the same N images.

    signal = Var_i(mean_k), noise = mean_i Var_k, both with ddof 1; snr = signal/noise; snr_corrected =
    (signal − noise/K)/noise; icc = ICC(1) = (MSB − MSW)/(MSB + (K − 1) MSW), one-way random effects (Shrout & Fleiss
    1979), with MSB = K·signal and MSW = noise; spearman = median (and quartiles) of the rank correlation, ties at
    their mean rank, over all K(K − 1)/2 pairs of trials. Intervals as the module's first page says.

    Edges: K = 1 gives NaN. A trial that is constant over images has no ranking: spearman is NaN. Where more than half
    of the images have one score and fewer than ten originals another, spearman has no interval. No noise and some
    signal: snr infinite, icc 1; neither: NaN. Any NaN among the three gives "insufficient_trials".

    Args:
        scores: [K, N].
        origins: the sampled unit of each image, [N]; None: each image is one.
        shared_noise: whether images of one trial share noise, as common masks or probes make them; False for masks
            keyed by image; None: judged from the data, which takes three trials.
        seed: of the resamples.
        resamples: how many.
        level: of the intervals.
        thresholds: for ``status`` and ``decision``.

    Raises:
        McdoError: for fewer than three images, a shape other than [K, N], NaN, infinity, or origins that do not fit.
            A McdoWarning is given for many more trials than images, as of scores [N, K].

    """
    array = trials("scores", scores)
    check_resampling(resamples, level)
    K, N = array.shape
    units = Units.of(origins, N)
    array, exponent = of_order_one(array)
    signal, noise = signal_noise(array)
    snr, icc = _ratio(signal, noise), icc_from_snr(_ratio(signal, noise), K)
    pairs, influence = spearman_influence(array)
    defined = len(pairs) > 0 and not np.isnan(pairs).any()
    q25, rho, q75 = (float(q) for q in np.quantile(pairs, [0.25, 0.5, 0.75])) if defined else [math.nan] * 3
    ranking, ratio, reason = _UNKNOWN, _UNKNOWN, _refused(K, shared_noise)
    if not reason:
        ratio = _ratio_confidence(array, units, snr, _shared(array, units, shared_noise), resamples, seed)
        few = nearly_constant([trial_mean(array)], units)
        if defined and not few:
            moves, in_ranks = units.sum(influence) / N, _shared(array, units, shared_noise, in_ranks=True)
            ranking = spearman_confidence(pairs, moves, units.effective, K, in_ranks, resamples, seed)
        undefined = {_NO_RATIO: ratio, few or _NO_RANKING: ranking}
        reason = "; ".join(why for why, known in undefined.items() if math.isnan(known.centre))
    return Reliability(
        spearman=rho,
        spearman_q25=q25,
        spearman_q75=q75,
        snr=snr,
        icc=icc,
        signal=_scaled(signal, 2 * exponent),
        noise=_scaled(noise, 2 * exponent),
        n_trials=K,
        n_images=N,
        n_origins=units.n,
        status=status_of(rho, snr, icc, thresholds),
        spearman_confidence=ranking,
        snr_confidence=ratio,
        level=level,
        reason=reason,
        thresholds=thresholds,
    )


def _scaled(value: float, exponent: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.ldexp(value, exponent))


def _ratio(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf if signal > 0 else math.nan
    return signal / noise


def _refused(K: int, shared_noise: bool | None) -> str:
    """Why so few trials have no interval, or nothing."""
    if K == 1:
        return "one trial: nothing was repeated; run at least three"
    if K == 2 and shared_noise is not False:
        return (
            "two trials cannot show how much of the noise images of a trial share; run at least three, or pass "
            "shared_noise=False where every image has masks of its own"
        )
    return ""


def _shared(scores: Array, units: Units, known: bool | None, *, in_ranks: bool = False) -> float:
    """The share of the noise that widens an interval: none where images have, or seem to have, noise of their own."""
    if known is False:
        return 0.0
    sharing = noise_sharing(mid_ranks(scores) if in_ranks else scores, units)
    return sharing.share if known or sharing.p < SHARING_ALPHA else 0.0


def _ratio_confidence(scores: Array, units: Units, snr: float, shared: float, resamples: int, seed: int) -> Confidence:
    if 0 < snr < math.inf:
        return snr_confidence(scores, units, shared, resamples, seed)
    return Confidence(math.inf, 0.0, 0.0, 1, "log", len(scores)) if snr > 0 else _UNKNOWN
