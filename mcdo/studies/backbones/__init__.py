"""Backbones for plant phenotyping (S3): features to HDF5, a temporal classifier over rounds, a table with intervals.

Run it with ``python -m mcdo.studies.backbones``; ``docs/studies/backbones.md`` says what it shows.
"""

from mcdo.studies.backbones.study import BackboneStudy

__all__ = ["BackboneStudy"]
