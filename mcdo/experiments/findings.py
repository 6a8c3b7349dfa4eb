"""Until every experiment is on the contract: see :mod:`mcdo.harness.negatives`."""

from mcdo.harness.negatives import FILE
from mcdo.harness.negatives import KnownNegative as Finding
from mcdo.harness.negatives import KnownNegatives as Findings

__all__ = ["FILE", "Finding", "Findings"]
