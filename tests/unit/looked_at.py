"""An encoder whose sites are known to be alive, so that a store holds what is measured of it and nothing else."""

from __future__ import annotations

from typing import Any

from mcdo.encoders import Encoder, load_encoder
from mcdo.perturbation import Dropout, check_alive


def looked_at(which: str | Encoder, **options: Any) -> Encoder:
    """An encoder, or of a key as :func:`load_encoder` loads it."""
    encoder = load_encoder(which, **options) if isinstance(which, str) else which
    check_alive(encoder, encoder.calibration_inputs(1), Dropout())
    return encoder
