"""What a device does with our passes: whether its numbers are the CPU's, and what they cost there."""

from mcdo.experiments.cost.device.check import SECTIONS, Check, run
from mcdo.experiments.cost.device.setup import TOY, DeviceCheck

__all__ = ["SECTIONS", "TOY", "Check", "DeviceCheck", "run"]
