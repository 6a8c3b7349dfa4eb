"""The gates on our encoder, and our own experiment."""

from ours.experiment import NotTheNorm

from mcdo.harness import tests_of

test_phase1 = tests_of("phase1")
test_ours = tests_of(NotTheNorm)
