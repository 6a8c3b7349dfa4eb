"""Experiments of phase 4."""
