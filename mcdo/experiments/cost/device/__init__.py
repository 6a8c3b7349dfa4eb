"""What a device does with our passes: whether its numbers are the CPU's, and what they cost there."""
