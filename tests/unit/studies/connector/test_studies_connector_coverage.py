from __future__ import annotations

import pytest

from mcdo.errors import McdoError
from mcdo.studies.connector.coverage import Coverage, check_coverage
from mcdo.studies.connector.faults import TruncationError, TruncationWarning
from mcdo.studies.connector.samples import IGNORED, Sample


def sample(labels: int, truncated: bool = False, length: int = 6) -> Sample:
    return Sample("s", (1,) * length, (IGNORED,) * (length - labels) + (1,) * labels, truncated)


def counts(truncated: int, without: int, n: int = 1000) -> Coverage:
    return Coverage(n, truncated, without, 13 * n, 40, 512)


def test_coverage_counts_by_hand() -> None:
    found = Coverage.of([sample(3), sample(0, truncated=True), sample(2, truncated=True, length=9)], 9)
    assert found == Coverage(n=3, truncated=2, without_labels=1, label_tokens=5, longest=9, max_seq_len=9)
    assert found.mean_label_tokens == pytest.approx(5 / 3)
    assert found.share_truncated.value == pytest.approx(2 / 3)
    assert found.share_without_labels.value == pytest.approx(1 / 3)
    assert found.as_dict()["verdict"] == "fail"


@pytest.mark.parametrize(
    ("truncated", "without", "verdict"),
    [(0, 0, "ok"), (10, 0, "ok"), (11, 0, "warn"), (20, 0, "warn"), (21, 0, "fail"), (0, 1, "warn"), (0, 21, "fail")],
)
def test_the_bands_are_one_and_two_percent(truncated: int, without: int, verdict: str) -> None:
    assert counts(truncated, without).verdict == verdict


def test_above_two_percent_fails_and_names_both_remedies() -> None:
    with pytest.raises(
        TruncationError, match=r"21 of 1000 samples \(2\.10%\) are truncated at max_seq_len 512"
    ) as error:
        check_coverage(counts(21, 0))
    assert "increase max_seq_len (to 768, say) or shorten the prompt" in str(error.value)


def test_between_one_and_two_percent_warns_with_the_remedies() -> None:
    with pytest.warns(TruncationWarning, match="increase max_seq_len .to 768, say. or shorten"):
        check_coverage(counts(15, 0))
    check_coverage(counts(10, 0))


def test_no_samples_is_an_error() -> None:
    with pytest.raises(McdoError, match="no samples"):
        Coverage.of([], 512)
