"""Experiments of phase 2."""
