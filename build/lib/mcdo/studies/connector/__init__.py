"""Does a language model use its visual tokens? Ablation of a connector, after the published runbook (S4).

A frozen vision tower, a projector and a causal language model; the teacher-forced loss on held-out captions is measured
with the correct image and with five things in its place. See ``docs/studies/connector.md``.
"""

from mcdo.studies.connector.ablation import Ablation, Comparison, ablate, compare
from mcdo.studies.connector.arms import ARMS, derangement
from mcdo.studies.connector.coverage import Coverage, check_coverage
from mcdo.studies.connector.faults import (
    InjectionError,
    LabelError,
    PlaceholderError,
    ProjectorError,
    TruncationError,
    TruncationWarning,
)
from mcdo.studies.connector.items import Captioned, Item
from mcdo.studies.connector.models import ConnectorModel, LlavaConnector, load_llava
from mcdo.studies.connector.requests import Connector
from mcdo.studies.connector.samples import Sample, Wording
from mcdo.studies.connector.study import ConnectorResult, ConnectorStudy
from mcdo.studies.connector.tiny import TinyConfig, TinyConnector
from mcdo.studies.connector.training import TrainingConfig

__all__ = [
    "ARMS",
    "Ablation",
    "Captioned",
    "Comparison",
    "Connector",
    "ConnectorModel",
    "ConnectorResult",
    "ConnectorStudy",
    "Coverage",
    "InjectionError",
    "Item",
    "LabelError",
    "LlavaConnector",
    "PlaceholderError",
    "ProjectorError",
    "Sample",
    "TinyConfig",
    "TinyConnector",
    "TrainingConfig",
    "TruncationError",
    "TruncationWarning",
    "Wording",
    "ablate",
    "check_coverage",
    "compare",
    "derangement",
    "load_llava",
]
