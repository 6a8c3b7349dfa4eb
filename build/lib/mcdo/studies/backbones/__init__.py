"""Backbones for plant phenotyping (S3): features to HDF5, a temporal classifier over rounds, a table with intervals.

Run it with ``python -m mcdo.studies.backbones``; ``docs/studies/backbones.md`` says what it shows.
"""

from mcdo.studies.backbones.config import BackbonesConfig, load_config
from mcdo.studies.backbones.extract import extract
from mcdo.studies.backbones.features import merge, read_features
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.registry import BACKBONES, load_backbone
from mcdo.studies.backbones.study import BackboneResult, BackboneStudy, collect, run_study

__all__ = [
    "BACKBONES",
    "BackboneResult",
    "BackboneStudy",
    "BackbonesConfig",
    "collect",
    "extract",
    "load_backbone",
    "load_config",
    "load_plants",
    "merge",
    "read_features",
    "run_study",
]
