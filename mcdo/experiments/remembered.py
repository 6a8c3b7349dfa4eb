"""Until every experiment is on the contract: see :mod:`mcdo.harness.offline`."""

from mcdo.harness.offline import OfflineEncoder as Remembered

__all__ = ["Remembered"]
