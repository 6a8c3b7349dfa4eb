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
    "sharing that three trials do not show": (
        "Where the common parts of three trials happen to lie close together, noise that they share goes "
        "unseen, and the interval is that of images alone. Five trials show it; `shared_noise=True` takes it "
        "for granted."
    ),
    "few trials": (
        "The spread of five trials is four degrees of freedom, and what single trials do to a mean over pairs is "
        "skewed: the jackknife's arms are a little short on many images, where the trials are all that varies."
    ),
    "shared noise that moves no level": (
        "An interval that is told of shared noise reckons with what trials do to the level. Where they do nothing "
        "to it, the line through the trials has the images' own noise alone, which the interval over images has too."
    ),
    "an error of zero": (
        "The debiased ECE of a calibrated model lies at the edge of what an error can be. It errs upwards, "
        "and so does its interval: whether a model is calibrated is not to be read off it."
    ),
    "errors in bins": (
        "The ECE of few images holds their noise in every bin, a bias upwards that a bootstrap doubles; a "
        "difference of two holds what is left of it. The debiased error stands beside it."
    ),
    "a share of nothing": (
        "The share of an interaction that there is none of lies at the edge of what a share can be: the "
        "interval always begins at zero, and covers too often."
    ),
    "few origins": (
        "Twenty origins of five images are twenty draws, and of a hundred few have a rare hit: the percentile "
        "bootstrap over so few is a little short. "
        "A reading error also takes the response curve of the other half as given."
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
    Cell("relation", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("relation given the norm", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ahead of a baseline, ρ", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ahead of a baseline, AUROC", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ahead of an idle one, ρ", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ahead of an idle one, AUROC", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("relation", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("relation given the norm", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ahead of a baseline, ρ", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ahead of a baseline, AUROC", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ahead of an idle one, ρ", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ahead of an idle one, AUROC", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("rank matrix, raw", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("rank matrix, disattenuated", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("mean ρ of trials", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("difference of mean ρ", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("trial by trial ρ", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("rank matrix, raw", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("rank matrix, disattenuated", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("mean ρ of trials", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("difference of mean ρ", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("trial by trial ρ", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("agreement, median ratio", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("agreement, Spearman", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("agreement, disattenuated", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("agreement, median ratio", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("agreement, Spearman", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("agreement, disattenuated", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("mean", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("median", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ratio of means", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("difference of groups", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("exceedance of groups", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("drift over trials", "shared_noise", 3, 100): Known(None, "noise shared by three trials"),
    Cell("mean", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("median", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ratio of means", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("difference of groups", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("exceedance of groups", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("drift over trials", "shared_noise", 3, 500): Known(None, "noise shared by three trials"),
    Cell("mean", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("median", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("ratio of means", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("difference of groups", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("exceedance of groups", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("drift over trials", "shared_level", 3, 100): Known(None, "noise shared by three trials"),
    Cell("mean", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("median", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("ratio of means", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("difference of groups", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("exceedance of groups", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("drift over trials", "shared_level", 3, 500): Known(None, "noise shared by three trials"),
    Cell("AUROC, 1 in 10 positive", "clustered", 5, 100): Known(None, "too few origins of a class"),
    Cell("median ρ", "shared_noise", 3, 100): Known(0.837, "sharing that three trials do not show"),
    Cell("SNR", "shared_noise", 3, 100): Known(0.843, "sharing that three trials do not show"),
    Cell("corrected SNR", "shared_noise", 3, 100): Known(0.843, "sharing that three trials do not show"),
    Cell("ICC", "shared_noise", 3, 100): Known(0.843, "sharing that three trials do not show"),
    Cell("median ρ", "shared_noise", 3, 500): Known(0.843, "sharing that three trials do not show"),
    Cell("mean ρ of trials", "shared_noise", 5, 500): Known(0.88, "few trials"),
    Cell("drift over trials", "shared_noise", 5, 500): Known(0.997, "shared noise that moves no level"),
    Cell("ECE", "calibrated", 1, 300): Known(0.707, "an error of zero"),
    Cell("ECE of an arm", "normal", 5, 100): Known(0.197, "errors in bins"),
    Cell("difference of ECE", "normal", 5, 100): Known(0.743, "errors in bins"),
    Cell("ECE of an arm", "normal", 5, 500): Known(0.827, "errors in bins"),
    Cell("difference of ECE", "normal", 5, 500): Known(0.833, "errors in bins"),
    Cell("ECE of an arm", "clustered", 5, 100): Known(0.263, "errors in bins"),
    Cell("difference of ECE", "clustered", 5, 100): Known(0.687, "errors in bins"),
    Cell("ECE of an arm", "clustered", 5, 500): Known(0.823, "errors in bins"),
    Cell("difference of ECE", "clustered", 5, 500): Known(0.87, "errors in bins"),
    Cell("share of nothing", "normal", 5, 100): Known(0.997, "a share of nothing"),
    Cell("share of nothing", "normal", 5, 500): Known(1.0, "a share of nothing"),
    Cell("share of nothing", "heavy_images", 5, 100): Known(0.997, "a share of nothing"),
    Cell("share of nothing", "heavy_images", 5, 500): Known(1.0, "a share of nothing"),
    Cell("share of nothing", "clustered", 5, 100): Known(0.997, "a share of nothing"),
    Cell("share of nothing", "clustered", 5, 500): Known(0.997, "a share of nothing"),
    Cell("mean ρ of trials", "clustered", 5, 100): Known(0.88, "few origins"),
    Cell("reading error", "clustered", 5, 100): Known(0.88, "few origins"),
}
