"""A plug-in of pytest: a machine with two cards, for which the processor stands in.

What it lets be seen without a card is which process is given which; each writes its own to $MCDO_TEST_CARDS.
"""

import os
from pathlib import Path

import pytest
import torch

import mcdo.encoders.load

_available = mcdo.encoders.load.available


def available(device: str | torch.device) -> torch.device:
    target = torch.device(device)
    if target.type != "cuda":
        return _available(device)
    if target.index not in (0, 1):
        pytest.fail(f"{device}: nobody named it")
    Path(os.environ["MCDO_TEST_CARDS"], f"{target.index} {os.getpid()}").touch()
    return torch.device("cpu")


mcdo.encoders.load.available = available
