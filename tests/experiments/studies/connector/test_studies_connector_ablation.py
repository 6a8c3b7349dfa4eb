"""Does the language model use its visual tokens, and does max_seq_len leave it something to learn from? (S4)

Options: --llava-json=FILE and --image-root=FOLDER (data), --connector-model=FOLDER (a transformers LLaVA checkpoint),
--max-seq-len=N (default 512).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.studies.connector import ConnectorStudy
from mcdo.studies.connector.coverage import check_coverage
from mcdo.studies.connector.study import ConnectorResult

pytestmark = of_experiment(ConnectorStudy)

test_claims = claims_of(ConnectorStudy)
test_contract = contract_of(ConnectorStudy)


@pytest.mark.filterwarnings("always::mcdo.studies.connector.faults.TruncationWarning")
def test_few_samples_are_truncated_and_none_is_without_labels(
    result: ConnectorResult, record_property: Callable[[str, object], None]
) -> None:
    record_property("coverage", str(result.coverage))
    check_coverage(result.coverage)
    for connector in result.connectors.values():
        for progress in connector.history:
            check_coverage(progress.coverage)
            assert progress.coverage == result.coverage, "every epoch shows every item once"


def test_pictures_dealt_to_the_wrong_items_are_not_passed(result: ConnectorResult) -> None:
    """The claim must fail where it is false: with pictures of other items as "correct", shuffling loses nothing."""
    if result.control is None:
        pytest.skip("a control of the study's own connectors; --connector-model names another one")
    assert result.control.verdict != "met", f"pictures of other items pass for correct ones: {result.control}"
