"""Experiments: one file each, with its configuration, what it needs measured, and what it computes from that."""
