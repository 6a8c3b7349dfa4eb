"""Experiments of phase 3."""
