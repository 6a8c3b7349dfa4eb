"""An encoder whose sites are known to be alive, so that a store holds what is measured of it and nothing else."""

from __future__ import annotations

from typing import Any

from mcdo.encoders import Encoder, load_encoder
from mcdo.perturbation import Dropout, check_alive


def looked_at(key: str, **options: Any) -> Encoder:
    """As :func:`load_encoder`."""
    encoder = load_encoder(key, **options)
    check_alive(encoder, encoder.calibration_inputs(1), Dropout())
    return encoder
