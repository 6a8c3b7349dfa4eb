"""The intervals that do not cover what they should: measured coverage and the reason, by cell.

An entry is added or changed by what ``python tests/calibration`` counts, never by what a test would like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from counts import Cell


class Known(NamedTuple):
    """``coverage`` in as many data sets as the page states; None where an interval is refused."""

    coverage: float | None
    reason: str


REASONS: Mapping[str, str] = {
    "noise shared by three trials": (
        "Noise that all images of a trial share shows only in the spread of trials. An interval that holds it "
        "takes five; with fewer the call is an error that says so."
    ),
    "too few origins of a class": (
        "Twenty origins with one image in ten positive have fewer than ten origins with positives. There is "
        "no interval then, and no verdict."
    ),
    "heavy tails": (
        "SNR and ICC are ratios of variances. Where a few images carry the variance no resample holds an "
        "image more extreme than the sample's, and the upper end is too low; heavy-tailed noise does the same "
        "to the lower end. N = 500 does not mend it. Read ρ there, which is covered."
    ),
    "sharing that three trials do not show": (
        "Where the common parts of three trials happen to lie close together, noise that they share goes "
        "unseen, and the interval is that of images alone. Five trials show it; `shared_noise=True` takes it "
        "for granted."
    ),
    "an error of zero": (
        "The debiased ECE of a calibrated model lies at the edge of what an error can be. It errs upwards, "
        "and so does its interval: whether a model is calibrated is not to be read off it."
    ),
    "few origins": (
        "Twenty origins of five images are twenty draws; the percentile bootstrap over so few is a little short."
    ),
}

KNOWN: Mapping[Cell, Known] = {
    Cell("Spearman", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("partial Spearman", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("difference of Spearman", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 5 positive", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 10 positive", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("difference of AUROC", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("Spearman", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("partial Spearman", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("difference of Spearman", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 5 positive", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 10 positive", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("difference of AUROC", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 10 positive", "clustered", 5, 100): Known(None, "too few origins of a class"),
    Cell("SNR", "heavy_images", 5, 100): Known(0.837, "heavy tails"),
    Cell("corrected SNR", "heavy_images", 5, 100): Known(0.837, "heavy tails"),
    Cell("ICC", "heavy_images", 5, 100): Known(0.837, "heavy tails"),
    Cell("SNR", "heavy_images", 5, 500): Known(0.86, "heavy tails"),
    Cell("corrected SNR", "heavy_images", 5, 500): Known(0.86, "heavy tails"),
    Cell("ICC", "heavy_images", 5, 500): Known(0.86, "heavy tails"),
    Cell("SNR", "heavy_images", 10, 500): Known(0.873, "heavy tails"),
    Cell("corrected SNR", "heavy_images", 10, 500): Known(0.873, "heavy tails"),
    Cell("ICC", "heavy_images", 10, 500): Known(0.873, "heavy tails"),
    Cell("SNR", "heavy_noise", 3, 500): Known(0.88, "heavy tails"),
    Cell("corrected SNR", "heavy_noise", 3, 500): Known(0.88, "heavy tails"),
    Cell("ICC", "heavy_noise", 3, 500): Known(0.88, "heavy tails"),
    Cell("median ρ", "shared_noise", 3, 100): Known(0.833, "sharing that three trials do not show"),
    Cell("SNR", "shared_noise", 3, 100): Known(0.833, "sharing that three trials do not show"),
    Cell("corrected SNR", "shared_noise", 3, 100): Known(0.833, "sharing that three trials do not show"),
    Cell("ICC", "shared_noise", 3, 100): Known(0.833, "sharing that three trials do not show"),
    Cell("median ρ", "shared_noise", 3, 500): Known(0.853, "sharing that three trials do not show"),
    Cell("ECE", "calibrated", 1, 300): Known(0.707, "an error of zero"),
    Cell("mean ρ of trials", "clustered", 5, 100): Known(0.88, "few origins"),
}
