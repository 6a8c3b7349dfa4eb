"""An encoder without a text tower, for ``--models=python:textless:make``."""

from __future__ import annotations

import torch

import mcdo


def make(device: torch.device) -> mcdo.Encoder:
    numbers = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 32, "interpolation": "bicubic"}
    visual = mcdo.load_encoder("siglip_tiny").model.get_submodule("visual")
    return mcdo.Encoder.of(visual, numbers, device=device)


make.family = "siglip"  # type: ignore[attr-defined]
