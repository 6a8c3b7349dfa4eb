"""The harness: it measures each request once, runs experiments, and judges each claim."""

from typing import TYPE_CHECKING, Any

from mcdo.harness.catalogue import register_experiment
from mcdo.harness.claim import Claim
from mcdo.harness.experiment import ALL_MODELS, Experiment, Files, Inputs, Subject, View
from mcdo.harness.requests import (
    Features,
    FirstOrder,
    Images,
    Logits,
    Passes,
    Request,
    StoredArrays,
    TextFeatures,
    Texts,
    TokenCounts,
)
from mcdo.harness.runner import Completed, Runner
from mcdo.harness.session import Session
from mcdo.harness.settings import Settings, Sizes, first_model
from mcdo.report.judgement import ALPHA, Judgement, Outcome

if TYPE_CHECKING:
    from mcdo.harness.tests import tests_of

__all__ = [
    "ALL_MODELS",
    "ALPHA",
    "Claim",
    "Completed",
    "Experiment",
    "Features",
    "Files",
    "FirstOrder",
    "Images",
    "Inputs",
    "Judgement",
    "Logits",
    "Outcome",
    "Passes",
    "Request",
    "Runner",
    "Session",
    "Settings",
    "Sizes",
    "StoredArrays",
    "Subject",
    "TextFeatures",
    "Texts",
    "TokenCounts",
    "View",
    "first_model",
    "register_experiment",
    "tests_of",
]


def __getattr__(name: str) -> Any:
    if name != "tests_of":  # which alone needs pytest
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcdo.harness.tests import tests_of

    return tests_of
