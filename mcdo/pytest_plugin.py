"""The pytest side of the harness: options, marks, fixtures, terminal summary."""
