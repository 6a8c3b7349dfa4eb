"""What is ours, by name: --models=ours, --scores=disagreeing_dims, -m ours."""

from ours import experiment, score  # noqa: F401  (each registers what it holds)
from ours.encoder import ours

import mcdo

mcdo.register_encoder("ours", ours)
