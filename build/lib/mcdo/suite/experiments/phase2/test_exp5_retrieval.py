"""Exp5's retrieval: does the score say which images are hard to match with their caption? On a file of the user's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments.phase2.exp5_retrieval import OPTION, CaptionRetrieval, RetrievalResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.images.retrieval import read_items

pytestmark = of_experiment(CaptionRetrieval)

test_claims = claims_of(CaptionRetrieval)
test_contract = contract_of(CaptionRetrieval)


def test_every_entry_of_the_file_has_a_rank(
    completed: Completed[RetrievalResult | None], record_property: Callable[[str, object], None]
) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, CaptionRetrieval)
    if result is None:
        pytest.skip(f"no {OPTION}=FILE.json")
    record_property("recall at 1", str(result.recall))
    for name, figures in result.figures.items():
        for key, estimate in figures.items():
            record_property(f"{name} {key}", str(estimate))
    items = read_items(experiment.retrieval)
    assert len(result.rank) == len(result.gap) == len(items)
    assert all(1 <= rank <= len(item.captions) for rank, item in zip(result.rank, items, strict=True))
    assert result.gap.min() >= 0
