"""What the performance suite shares: the machine it ran on, and a report that grows as tests run."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest
import torch

from mcdo.estimators.provenance import versions
from mcdo.harness import Session


@pytest.fixture(scope="session")
def machine(session: Session) -> dict[str, Any]:
    """Where absolute figures were taken."""
    device = session.settings.device
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "device": device,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "precision": session.settings.precision,
        "versions": versions(),
    }
