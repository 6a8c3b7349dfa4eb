"""Does a language model use its visual tokens? Ablation of a connector, after the published runbook (S4).

A frozen vision tower, a projector and a causal language model; the teacher-forced loss on held-out captions is measured
with the correct image and with five things in its place. See ``docs/studies/connector.md``.
"""

from mcdo.studies.connector.study import ConnectorStudy
from mcdo.studies.connector.training import TrainingConfig

__all__ = ["ConnectorStudy", "TrainingConfig"]
