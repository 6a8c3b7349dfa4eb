"""Core results; needs a GO from phase 1."""
