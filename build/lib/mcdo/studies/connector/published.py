"""The published result of the study (S4), to be set beside ours; nothing is compared with it by a test.

Stage 1 of another project: a Qwen3 language model and a vision tower, a projector trained on LLaVA-Pretrain, 100
held-out items, ``max_seq_len`` 512. Losses in nats per label token; no intervals were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOSSES: Mapping[str, float] = {"correct": 3.5150, "shuffled": 4.4022, "zeroed": 5.2885, "noise": 5.6652}
COVERAGE: Mapping[str, Any] = {"n": 4900, "truncated": 0.0, "without_labels": 0.0, "mean_label_tokens": 13.1}
HELD_OUT, MAX_SEQ_LEN = 100, 512


def as_dict() -> dict[str, Any]:
    """For the result's JSON."""
    return {"losses": dict(LOSSES), "coverage": dict(COVERAGE), "held_out": HELD_OUT, "max_seq_len": MAX_SEQ_LEN}
