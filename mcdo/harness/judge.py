"""How a judgement ends in a test: met passes, not met fails, undecided and not applicable are skipped and say so.

A claim that ``mcdo/data/findings.toml`` lists is a known negative: its test is a strict xfail, with the measured
reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mcdo.errors import CriterionNotMetError
from mcdo.harness.negatives import KnownNegatives
from mcdo.harness.settings import Settings
from mcdo.report.judgement import Judgement


@dataclass(frozen=True)
class Judge:
    """The fixture ``judge``: it ends a test as the judgement of a claim ended."""

    settings: Settings
    negatives: KnownNegatives
    request: pytest.FixtureRequest

    def __call__(self, experiment: str, subject: str, judgement: Judgement) -> None:
        """End the test as ``judgement`` about a subject of an experiment did."""
        known = self.negatives.lookup(experiment, judgement.claim, subject, self.settings)
        if known is not None:
            reason = f"{known.measured}: {known.reason}"
            self.request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
        record: Callable[[str, object], None] = self.request.getfixturevalue("record_property")
        measured = "" if judgement.estimate is None else str(judgement)
        facts = {"experiment": experiment, "model": subject, "claim": judgement.claim, "measured": measured}
        for name, value in {**facts, "beside": judgement.beside, "outcome": judgement.outcome}.items():
            record(name, value)
        for name, number in ({} if judgement.estimate is None else judgement.estimate.as_dict()).items():
            if number is not None:
                record(name, repr(number))
        line = f"{experiment} {subject} {judgement.claim}: {judgement}"
        if judgement.outcome in ("undecided", "not applicable"):
            pytest.skip(f"{judgement.outcome}: {line}")
        if judgement.outcome != "met":
            raise CriterionNotMetError(f"{judgement.outcome}: {line}")
