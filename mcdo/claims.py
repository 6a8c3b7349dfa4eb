"""Until every experiment is on the contract: see :mod:`mcdo.harness.judge`."""

from mcdo.harness.claim import ALPHA
from mcdo.harness.judge import Judge, Judges

__all__ = ["ALPHA", "Judge", "Judges"]
