"""The harness: it measures each request once, runs experiments, and judges each claim."""

from mcdo.harness.claim import ALPHA, Claim
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
from mcdo.harness.settings import Settings, first_model
from mcdo.report.judgement import Judgement, Outcome

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
    "StoredArrays",
    "Subject",
    "TextFeatures",
    "Texts",
    "TokenCounts",
    "View",
    "first_model",
]
