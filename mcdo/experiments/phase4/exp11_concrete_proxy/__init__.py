"""Exp11: a drop probability of its own for each depth."""
