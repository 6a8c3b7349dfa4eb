"""A recipe made up of plain numbers, for a given identity of an encoder."""

from __future__ import annotations

from typing import Any

from mcdo.recipes.file import EncoderIdentity

IDENTITY = EncoderIdentity(
    key="clip_tiny",
    weights="a" * 64,
    architecture="b" * 64,
    probe="c" * 64,
    preprocessing="resize to 32, bicubic",
    precision="float32",
    random_weights=False,
)


def interval(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 50, "level": 0.95}


def a_recipe(**changed: Any) -> dict[str, Any]:
    """As it would stand in a file."""
    level = {
        "degradation": "blur:5",
        "severity": 5.0,
        "raised": interval(0.9, 0.8, 0.95),
        "log_ratio": interval(0.7, 0.5, 0.9),
    }
    response = {
        "family": "blur",
        "unit": "radius (px)",
        "severities": [0.0, 5.0],
        "log_score": [interval(-7.0, -7.1, -6.9), interval(-6.3, -6.4, -6.2)],
        "fitted": [interval(-7.0, -7.1, -6.9), interval(-6.3, -6.4, -6.2)],
        "shape": "rising",
        "levels": [level],
    }
    verdict = {
        "reliable": "met",
        "valid": "met",
        "reliability": {"spearman": interval(0.9, 0.85, 0.95)},
        "raised": {"blur:5": interval(0.9, 0.8, 0.95)},
        "chosen_on": ["blur:5"],
        "gains": [{"over": "all", "difference": {"estimate": interval(0.2, 0.1, 0.3), "p_holm": 0.01}}],
    }
    calibration = {
        "images": "digits",
        "fingerprint": "d" * 64,
        "n": 60,
        "origins": 50,
        "seed": 42,
        "quantiles": [0.1, 0.2, 0.2, 0.4],
    }
    return {
        "version": 1,
        "name": "clip_tiny/first_blocks",
        "encoder": {name: getattr(IDENTITY, name) for name in IDENTITY.__struct_fields__},
        "kind": "dropout",
        "p": 0.01,
        "sites": [
            {"name": "visual.transformer.resblocks.0.mlp.c_proj", "role": "fc2", "weight": 1.0, "block": 0},
            {"name": "visual.proj", "role": "final_projection", "weight": 0.0},
        ],
        "estimator": {"method": "first_order", "probes": 8, "trials": 1, "seed": 42},
        "score": "trace_pre",
        "calibration": calibration,
        "responses": [response],
        "verdict": verdict,
        "provenance": {"mcdo": "0.1.0"},
        **changed,
    }
