"""Two folders of reports side by side: which figures differ beyond noise, which verdicts moved, what was set otherwise.

Scores by image are compared on the images that both hold, image by image; where they hold too few in common, as two
samples. A claim's figure is compared as of two samples also where the images are the same, which is cautious: what
they share would only narrow the interval. Noise that the images of a trial share is in the intervals of scores where
three trials or more show it; runs of fewer that share noise are compared under one seed. p-values are corrected by Holm
over all figures that are compared. Scores of the same images that are equal but for rounding do not differ, however
sure their difference is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcdo.errors import McdoError
from mcdo.report.judgement import ALPHA, Judgement
from mcdo.report.per_image import PerImage, per_image
from mcdo.report.results import Reported, Reports
from mcdo.report.stored_runs import StoredRun
from mcdo.report.terminal import Table
from mcdo.stats import Estimate, mean
from mcdo.stats._checks import of_order_one
from mcdo.stats.comparison import holm_of_defined
from mcdo.stats.independent import difference
from mcdo.stats.mean_differences import t_inferred
from mcdo.stats.reliability import SHARING_ALPHA
from mcdo.stats.resampling import Units
from mcdo.stats.sample import Inferred
from mcdo.stats.sharing import noise_sharing
from mcdo.stats.trials import widened

LEAST_ORIGINS = 10
"""Origins in common below which scores are compared as two samples."""
ROUNDING = 1e-5
"""Relative to scores: what batch size, order and machine may change of the same measurement, and so no difference."""
RANK = {"met": 2, "undecided": 1, "not met": 0}
DECISIONS = {"GO": 2, "UNDECIDED": 1, "NO-GO": 0}
NONE = Estimate(math.nan, math.nan, math.nan, 0)
"""In the place of a figure that there is not."""


@dataclass(frozen=True)
class Change:
    """One figure in both reports.

    Attributes:
        experiment: folder of the experiment.
        subject: usually a model.
        figure: the claim, or the score by image.
        first: in the first report; second likewise. Of scores by image: the mean, or the mean logarithm.
        difference: second less first, with its interval.
        p_value: of "they do not differ", uncorrected.
        how: "paired over N images", or "two samples".
        outcomes: of the claim, before and after; empty for a score.
        p_holm: the same, corrected over all that is compared.

    """

    experiment: str
    subject: str
    figure: str
    first: Estimate
    second: Estimate
    difference: Estimate
    p_value: float
    how: str
    outcomes: tuple[str, ...] = ()
    p_holm: float = math.nan

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is more than noise, over all that is compared."""
        return self.p_holm < ALPHA

    @property
    def compared(self) -> str:
        """How the two figures are to each other, in words."""
        if math.isnan(self.p_value):
            return "not compared"
        return "beyond noise" if self.beyond_noise else "within noise"

    @property
    def moved(self) -> bool:
        """Whether the claim ended otherwise."""
        return bool(self.outcomes) and self.outcomes[0] != self.outcomes[-1]

    @property
    def one_sided(self) -> bool:
        """Whether there is a figure in one report alone, which is a difference that no p tells."""
        return math.isnan(self.first.value) != math.isnan(self.second.value)

    @property
    def lost(self) -> bool:
        """Whether the claim was met, and nothing decides it any more."""
        return self.moved and self.outcomes[0] == "met" and not (self.second.has_interval and self.outcomes[1] in RANK)

    @property
    def worse(self) -> bool:
        """Whether the claim ended worse beyond noise, is lost, or is not met where it was and cannot be compared."""
        if self.lost or (self.outcomes == ("met", "not met") and math.isnan(self.p_value)):
            return True
        before, after = (RANK.get(outcome, -1) for outcome in (self.outcomes or ("", "")))
        return self.beyond_noise and -1 < after < before


@dataclass(frozen=True)
class Comparison:
    """What two folders of reports have in common.

    Attributes:
        decisions: the two verdicts' decisions; None where there is no verdict.
        changes: every figure in both.
        settings: what was set otherwise: experiment and subject, setting, first, second.
        only: what stands in one of them alone: experiment, subject with the claim where the experiment is in both, and
            "first" or "second".
        unfinished: whether the run into the second folder did not come to its end, or tests of it ended with an error.

    """

    decisions: tuple[str | None, str | None]
    changes: tuple[Change, ...]
    settings: tuple[tuple[str, str, str, str], ...]
    only: tuple[tuple[str, str, str], ...]
    unfinished: bool = False

    @property
    def beyond_noise(self) -> tuple[Change, ...]:
        """The figures that differ by more than noise."""
        return tuple(change for change in self.changes if change.beyond_noise)

    @property
    def different(self) -> bool:
        """Whether any figure differs by more than noise, or is in one alone of two reports that hold it both.

        Of a run that did not end whole nobody knows: what it did not measure may stand there from an earlier one.
        """
        return self.unfinished or any(change.beyond_noise or change.one_sided for change in self.changes)

    @property
    def worse(self) -> bool:
        """Whether a claim or the verdict is worse in the second, a GO is not there any more, or nobody knows."""
        before, after = (-1 if each is None else DECISIONS[each] for each in self.decisions)
        fell = -1 < after < before or (self.decisions[0] == "GO" and self.decisions[1] is None)
        return self.unfinished or fell or any(change.worse for change in self.changes)

    def conclusion(self) -> str:
        """One line: whether anything differs, and the verdicts."""
        found, moved = len(self.beyond_noise), sum(change.moved for change in self.changes)
        compared = sum(change.compared != "not compared" for change in self.changes)
        verdicts = " and ".join("no verdict" if each is None else each for each in self.decisions)
        said = f"{found} of {compared} figures differ beyond noise" if found else "no difference beyond noise"
        lost = sum(change.lost for change in self.changes)
        met = f"; {lost} claims that were met cannot be decided any more" if lost else ""
        undefined = sum(change.one_sided and not change.outcomes for change in self.changes)
        met += f"; {undefined} scores are not finite on one side" if undefined else ""
        return f"{said} ({compared} compared, {moved} claims ended otherwise){met}; verdicts: {verdicts}"


def compare(first: Reports, second: Reports, seed: int = 0) -> Comparison:
    """Compare two folders of reports; ``seed`` of the resamples."""
    known = ({each.identity: each for each in reports.experiments} for reports in (first, second))
    before, after = known
    common = [key for key in before if key in after]
    found = [change for key in common for change in _claims(before[key], after[key])]
    earlier, later = (per_image(reports) for reports in (first, second))
    found += _scores(earlier, later, seed)
    alone = ((before, after, "first"), (after, before, "second"))
    only = [(*these[key].key, which) for these, those, which in alone for key in these if key not in those]
    for these, those, which in alone:
        only += [row for key in common for row in _claims_alone(these[key], those[key], which)]
    both = {key[:2] for key in common}
    only += [*_scores_alone(earlier, later, both, "first"), *_scores_alone(later, earlier, both, "second")]
    return Comparison(
        decisions=tuple(None if each.verdict is None else str(each.verdict["decision"]) for each in (first, second)),  # type: ignore[arg-type]
        changes=_corrected(found),
        settings=tuple(row for key in common for row in _settings(before[key], after[key])),
        only=tuple(only),
        unfinished=second.last_run is not None and not second.last_run.whole,
    )


def compare_runs(first: StoredRun, second: StoredRun, seed: int = 0) -> Comparison:
    """The same of two runs in stores: their scores by image at the T that both have; there is no verdict and no claim.

    Raises:
        McdoError: if they have no score at the same T.

    """
    found = list(_scores(first.scores, second.scores, seed))
    if not found:
        raise McdoError(f"{first.name} and {second.name} have no score at the same T, on enough images")
    names = [{score.key for score in run.scores} for run in (first, second)]
    only = [
        *((file, score, "first") for _, _, file, score in sorted(names[0] - names[1])),
        *((file, score, "second") for _, _, file, score in sorted(names[1] - names[0])),
    ]
    settings = _differing("stored run", "", first.settings, second.settings)
    return Comparison((None, None), _corrected(found), tuple(settings), tuple(only))


def _corrected(found: Sequence[Change]) -> tuple[Change, ...]:
    adjusted = holm_of_defined([change.p_value for change in found])
    return tuple(replace(change, p_holm=p) for change, p in zip(found, adjusted, strict=True))


def _claims(before: Reported, after: Reported) -> Iterator[Change]:
    """The figures of claims in both; one that ended otherwise is told also where they cannot be compared."""
    later: Mapping[str, Judgement] = {judgement.claim: judgement for judgement in after.claims}
    for judgement in before.claims:
        other = later.get(judgement.claim)
        if other is None:
            continue
        outcomes, sides = (judgement.outcome, other.outcome), (judgement.estimate or NONE, other.estimate or NONE)
        if NONE not in sides and sides[0].level == sides[1].level:
            found = difference(sides[1], sides[0])
            yield Change(*before.key, judgement.claim, *sides, found.estimate, found.p_value, "two samples", outcomes)
        elif outcomes[0] != outcomes[1]:
            yield Change(*before.key, judgement.claim, *sides, NONE, math.nan, "", outcomes)


def _claims_alone(before: Reported, after: Reported, which: str) -> Iterator[tuple[str, str, str]]:
    later = {judgement.claim for judgement in after.claims}
    for judgement in before.claims:
        if judgement.claim not in later:
            yield before.key[0], f"{before.subject} {judgement.claim}", which


def _scores_alone(
    these: Iterable[PerImage], those: Iterable[PerImage], both: Collection[tuple[str, ...]], which: str
) -> Iterator[tuple[str, str, str]]:
    """Of the experiments that both hold."""
    there = {score.key for score in those}
    for score in these:
        if score.key not in there and score.key[:2] in both:
            yield score.experiment, f"{score.subject} {score.score} ({score.file})", which


def _scores(first: Iterable[PerImage], second: Iterable[PerImage], seed: int) -> Iterator[Change]:
    later = {score.key: score for score in second}
    for score in first:
        if score.key in later:
            change = _score(score, later[score.key], seed)
            if change is not None:
                yield change


def _score(first: PerImage, second: PerImage, seed: int) -> Change | None:
    values = [score.values.mean(axis=0) for score in (first, second)]
    undefined = [int((~np.isfinite(each)).sum()) for each in values]
    if any(undefined):
        return None if all(undefined) else _not_finite(first, second, undefined, seed)
    logarithms = all((each > 0).all() for each in values)
    a, b = (np.log(each) if logarithms else each for each in values)
    # what single trials add to them
    before, after = (
        score.values / each if logarithms else score.values for score, each in zip((first, second), values, strict=True)
    )
    _, here, there = np.intersect1d(first.ids, second.ids, return_indices=True)
    name = f"mean {'log ' if logarithms else ''}{first.score} ({first.file})"
    origins = first.origins[here]

    def sides(here: Any, there: Any) -> tuple[Estimate, Estimate]:
        both = ((a, before, first.origins, here), (b, after, second.origins, there))
        one, other = (
            _over_trials(Inferred(mean(x[at], origins=of[at], seed=seed), math.nan), [trials[:, at]], of[at]).estimate
            for x, trials, of, at in both
        )
        return one, other

    if len(set(origins.tolist())) >= LEAST_ORIGINS:
        found = t_inferred(b[there] - a[here], Units.of(origins, len(here)))
        moved = [-before[:, here], after[:, there]]
        if len(before) == len(after):  # what both share in a trial, as under one seed, is no difference
            moved = [moved[0] + moved[1]]
        apart = _over_trials(found, moved, origins)
        how, p = f"paired over {len(here)} images", apart.p_value
        old, new = values[0][here], values[1][there]
        if np.allclose(old, new, rtol=ROUNDING, atol=ROUNDING * np.abs(new).mean()):
            how, p = f"{how}, equal but for rounding", 1.0
        return Change(*first.key[:2], name, *sides(here, there), apart.estimate, p, how)
    if min(len(set(each.origins.tolist())) for each in (first, second)) < LEAST_ORIGINS:
        return None
    every = slice(None)
    ends = sides(every, every)
    apart = difference(ends[1], ends[0])
    return Change(*first.key[:2], name, *ends, apart.estimate, apart.p_value, "two samples")


def _over_trials(found: Inferred, moved: Sequence[Any], origins: Any) -> Inferred:
    """A mean over images with what other trials would have given, where trials ([K, N] each) show that images of one
    share their noise. Two or fewer trials show nothing.
    """
    for trials in moved:
        if noise_sharing(of_order_one(trials)[0], Units.of(origins, len(origins))).p < SHARING_ALPHA:
            left = (trials.mean(axis=0) - trials).mean(axis=1) / (len(trials) - 1)
            found = widened(found, found.estimate.value + left, (-math.inf, math.inf))
    return found


def _not_finite(first: PerImage, second: PerImage, undefined: Sequence[int], seed: int) -> Change:
    """One side is no number for some images: so is its mean, and nothing is to be compared."""
    sides = [
        NONE if count else mean(score.values.mean(axis=0), origins=score.origins, seed=seed)
        for score, count in zip((first, second), undefined, strict=True)
    ]
    which, there = ("first", first) if undefined[0] else ("second", second)
    how = f"not finite for {max(undefined)} of {len(there.ids)} images in the {which}"
    return Change(*first.key[:2], f"mean {first.score} ({first.file})", sides[0], sides[1], NONE, math.nan, how)


def _settings(before: Reported, after: Reported) -> Iterator[tuple[str, str, str, str]]:
    """Settings, versions and weights that differ; of the measured numbers nothing."""
    where = f"{before.key[0]} {before.subject}"
    for name in ("config", "image_set", "sites", "provenance", "num_images", "num_origins"):
        yield from _differing(where, name, before.summary.get(name), after.summary.get(name))


def _differing(where: str, name: str, before: Any, after: Any) -> Iterator[tuple[str, str, str, str]]:
    first, second = _leaves(before), _leaves(after)
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            yield where, f"{name}{key}".removeprefix("."), first.get(key, "–"), second.get(key, "–")


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {leaf: text for key, each in value.items() for leaf, text in _leaves(each, f"{path}.{key}").items()}
    return {path: str(value)}


def tables(comparison: Comparison) -> list[Table]:
    """For a terminal and a page: what moved or differs, what was set otherwise, what stands in one alone."""
    told = [change for change in comparison.changes if change.beyond_noise or change.moved or change.one_sided]
    figures = tuple(
        (
            change.experiment, change.subject, change.figure, change.first.without_n, change.second.without_n,
            change.difference.without_n, change.how, "–" if math.isnan(change.p_holm) else f"{change.p_holm:.2g}",
            " → ".join(dict.fromkeys(change.outcomes)), change.compared,
        )
        for change in sorted(told, key=_first_told)
    )  # fmt: skip
    heading = (
        "experiment", "model", "figure", "first", "second", "difference [95 %]", "how", "p (Holm)", "outcome", "is",
    )  # fmt: skip
    return [
        Table("What differs beyond noise or is on one side alone, and which claims ended otherwise", heading, figures),
        Table("What was set otherwise", ("experiment", "setting", "first", "second"), _merged(comparison.settings)),
        Table("What stands in one of them alone", ("experiment", "model", "in the"), comparison.only),
    ]


def _first_told(change: Change) -> tuple[bool, bool, float]:
    p = math.inf if math.isnan(change.p_holm) else change.p_holm
    return not change.moved, not (change.beyond_noise or change.one_sided), p


def _merged(settings: tuple[tuple[str, str, str, str], ...]) -> tuple[tuple[str, ...], ...]:
    """One row for a setting that differs in the same way in several experiments."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for place, *rest in settings:
        where.setdefault((rest[0], rest[1], rest[2]), []).append(place)
    return tuple(
        (places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more", *map(_cut, key))
        for key, places in where.items()
    )


def _cut(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
