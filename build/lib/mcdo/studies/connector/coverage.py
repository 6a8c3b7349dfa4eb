"""Truncation and label coverage: how many samples ``max_seq_len`` cuts, and how many are left with nothing to predict.

Counted on the samples that an epoch really showed. Above 2 % of either share the run fails and the message names the
remedies; above 1 % truncated, or with any sample without labels, it warns (S4: "truncation above about 1-2 %", and
no labels "should be about 0").
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mcdo.errors import McdoError
from mcdo.stats import Estimate, proportion
from mcdo.studies.connector.faults import TruncationError, TruncationWarning
from mcdo.studies.connector.samples import Sample

WARN_TRUNCATED, FAIL = 0.01, 0.02
Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Coverage:
    """Counts over ``n`` samples at ``max_seq_len``."""

    n: int
    truncated: int
    without_labels: int
    label_tokens: int
    longest: int
    max_seq_len: int

    @classmethod
    def of(cls, samples: Iterable[Sample], max_seq_len: int) -> Coverage:
        """Count; ``longest`` is that of the samples as shown, so at most ``max_seq_len``."""
        shown = list(samples)
        if not shown:
            raise McdoError("there are no samples to count; the data set is empty")
        return cls(
            n=len(shown),
            truncated=sum(s.truncated for s in shown),
            without_labels=sum(s.label_tokens == 0 for s in shown),
            label_tokens=sum(s.label_tokens for s in shown),
            longest=max(len(s.input_ids) for s in shown),
            max_seq_len=max_seq_len,
        )

    @property
    def share_truncated(self) -> Estimate:
        """Share of cut samples, with Wilson's interval."""
        return proportion(self.truncated, self.n)

    @property
    def share_without_labels(self) -> Estimate:
        """Share of samples that no loss can be taken over, with Wilson's interval."""
        return proportion(self.without_labels, self.n)

    @property
    def mean_label_tokens(self) -> float:
        """Label tokens per sample, those without any included."""
        return self.label_tokens / self.n

    @property
    def verdict(self) -> Grade:
        """On the counted shares themselves: they are all samples of the epoch, not a draw from them."""
        truncated, without = self.truncated / self.n, self.without_labels / self.n
        if max(truncated, without) > FAIL:
            return "fail"
        return "warn" if truncated > WARN_TRUNCATED or without > 0 else "ok"

    def __str__(self) -> str:
        return (
            f"{self.truncated} of {self.n} samples ({self.truncated / self.n:.2%}) are truncated at max_seq_len "
            f"{self.max_seq_len}, {self.without_labels} ({self.without_labels / self.n:.2%}) have no label tokens, "
            f"{self.mean_label_tokens:.1f} label tokens per sample"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "n": self.n,
            "max_seq_len": self.max_seq_len,
            "truncated": self.share_truncated.as_dict(),
            "without_labels": self.share_without_labels.as_dict(),
            "mean_label_tokens": self.mean_label_tokens,
            "longest": self.longest,
            "verdict": self.verdict,
        }


def check_coverage(coverage: Coverage) -> None:
    """Warn or fail by the verdict.

    Raises:
        TruncationError: above 2 %.

    """
    longer = max(coverage.max_seq_len * 3 // 2, coverage.max_seq_len + 1)
    remedies = f"increase max_seq_len (to {longer}, say) or shorten the prompt around the image"
    if coverage.verdict == "fail":
        raise TruncationError(f"{coverage}; at most {FAIL:.0%} may be: {remedies}")
    if coverage.verdict == "warn":
        warnings.warn(f"{coverage}: {remedies}", TruncationWarning, stacklevel=2)
