"""Experiments of the preliminary investigation."""
