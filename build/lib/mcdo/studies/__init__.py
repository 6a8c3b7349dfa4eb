"""Neighbouring studies: subtasks and calibration (S2), backbones (S3), connector (S4)."""
