"""What S2 reports, and what follows from its own numbers.

S2 calls 94.98 ± .14 against 94.91 ± .15 % "statistically significant (p < 0.05)". Whether it can be is arithmetic, and
depends on what the ± are: this module computes it under every reading, and for the most favourable paired test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from mcdo.errors import McdoError

# Per cent, with the half-widths of intervals that the document calls 95 %.
ACCURACY = {"A": (94.91, 0.15), "B": (94.98, 0.14)}
ECE = {"A": (1.37, 0.08), "B": (1.67, 0.10)}
TEMPERATURE = {"A": 1.431, "B": 1.504}
MEAN_STD = {"A": 0.2355, "B": 0.2395}
SUBTASK_ACCURACY = {"superclass": 98.8, "brightness": 81.4, "complexity": 65.4, "complexity_variance": 47.5}
TEST_IMAGES = 10_000
RUNS = 3


@dataclass(frozen=True)
class PublishedDifference:
    """Two-sided p of a published difference, in per cent points, under each reading of its ±.

    Attributes:
        difference: b − a.
        p_intervals: the ± are 95 % intervals of a normal, and the two arms are independent.
        p_runs_t: the ± are 95 % intervals of Student's t over the runs (Welch's test).
        p_runs_sd: the ± are standard deviations over the runs (Welch's test).
        binomial_half_width: 95 % half-width that n test images give an accuracy of that size, in points.
        correlation_needed: correlation of the two arms' errors of estimation above which p_intervals would be < 0.05.
        net_images: the difference in test images.
        most_discordant: the largest number of images on which one arm alone is right for which McNemar's exact test
            gives p < 0.05 at this difference, or None if none does.

    """

    difference: float
    p_intervals: float
    p_runs_t: float
    p_runs_sd: float
    binomial_half_width: float
    correlation_needed: float
    net_images: int
    most_discordant: int | None


def published_difference(
    a: tuple[float, float], b: tuple[float, float], n: int = TEST_IMAGES, runs: int = RUNS
) -> PublishedDifference:
    """What (value, half-width) of two arms, in per cent on the same ``n`` test images over ``runs`` runs, can show."""
    if n < 1 or runs < 2 or min(a[1], b[1]) <= 0:
        raise McdoError(f"n={n}, runs={runs}, half-widths {a[1]}, {b[1]}: give n >= 1, runs >= 2, half-widths > 0")
    z, t = scipy.stats.norm.ppf(0.975), scipy.stats.t.ppf(0.975, runs - 1)
    difference = b[0] - a[0]
    share, net = (a[0] + b[0]) / 200, round(abs(difference) / 100 * n)
    return PublishedDifference(
        difference=difference,
        p_intervals=float(2 * scipy.stats.norm.sf(abs(difference) / math.hypot(a[1] / z, b[1] / z))),
        p_runs_t=_welch(difference, a[1] / t, b[1] / t, runs),
        p_runs_sd=_welch(difference, a[1] / math.sqrt(runs), b[1] / math.sqrt(runs), runs),
        binomial_half_width=float(100 * z * math.sqrt(share * (1 - share) / n)),
        correlation_needed=_correlation_needed(abs(difference) / z, a[1] / z, b[1] / z),
        net_images=net,
        most_discordant=most_discordant(net, n),
    )


def difference_of(published: dict[str, tuple[float, float]]) -> PublishedDifference:
    """B − A of a published pair such as :data:`ACCURACY`."""
    return published_difference(published["A"], published["B"])


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p of McNemar's test (1947) from the discordant counts; 1 when there are none."""
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def most_discordant(net: int, n: int, level: float = 0.05) -> int | None:
    """The largest number of discordant images, ``net`` more on one side, that is still significant; None if none is."""
    fewer = np.arange((n - net) // 2 + 1)
    p = 2 * scipy.stats.binom.cdf(
        fewer, 2 * fewer + net, 0.5
    )  # McNemar's p while one side is the smaller; rises with fewer
    significant = int((p < level).sum()) if net else 0
    return 2 * (significant - 1) + net if significant else None


def _welch(difference: float, se_a: float, se_b: float, runs: int) -> float:
    variance = se_a**2 + se_b**2
    freedom = variance**2 / ((se_a**4 + se_b**4) / (runs - 1))
    return float(2 * scipy.stats.t.sf(abs(difference) / math.sqrt(variance), freedom))


def _correlation_needed(se_wanted: float, se_a: float, se_b: float) -> float:
    return (se_a**2 + se_b**2 - se_wanted**2) / (2 * se_a * se_b)
