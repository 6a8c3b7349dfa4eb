"""Experiments of phase 1."""
