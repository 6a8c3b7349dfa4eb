"""Exp10: dropout in the text tower."""
