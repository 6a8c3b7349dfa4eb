"""Exp0: does the score rank images the same way when it is measured again, and from how many passes on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.stats import Reliability, reliability

FOLDER = "exp0_nested_mc"
SPACES = {"pre_norm": "trace_pre", "post_norm": "trace_post"}
"""Published names of the two spaces, and the score of each."""


@dataclass(frozen=True)
class Exp0Config(ExperimentConfig):
    """N images, K trials, nested T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 120, "trials": 5}

    n: int = 500
    passes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    trials: int = 10


Exp0Result = dict[int, dict[str, Reliability]]
"""Reliability by T and space."""


def needs(config: Exp0Config, model: str) -> Need:
    """One run of the largest T."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, config.passes, config.trials, config.seed))


def compute(config: Exp0Config, run: MonteCarloRun) -> Exp0Result:
    """Reliability of trace_pre and trace_post at every T."""
    return {
        t: {
            space: reliability(run.scores(score, t)[: config.trials], seed=config.seed)
            for space, score in SPACES.items()
        }
        for t in config.passes
    }


def write(config: Exp0Config, run: MonteCarloRun, result: Exp0Result, reports: Path, session: str) -> Path:
    """``exp0_overall_summary.json`` for all models; per model a summary and the trials at every T."""
    folder = reports / FOLDER / file_name(run.encoder)
    for t in config.passes:
        pre, post = (run.scores(score, t)[: config.trials] for score in SPACES.values())
        write_npz(folder / f"exp0_trials_T{t}.npz", paths=np.array(run.ids), trial_pre=pre, trial_post=post)
    table = {f"T={t}": {space: r.as_dict() for space, r in spaces.items()} for t, spaces in result.items()}
    write_json(folder / "exp0_summary.json", {"model": run.encoder, "results": table, **origin(config, run)})
    overall = reports / FOLDER / "exp0_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, table)
    return overall
