from __future__ import annotations

from pathlib import Path

import pytest

from mcdo.encoders import REGISTRY
from mcdo.errors import McdoError
from mcdo.harness import Settings
from mcdo.harness.negatives import KnownNegatives
from mcdo.perturbation import Dropout, Gaussian

ENTRY = """
[[finding]]
experiment = "exp5"
claim = "rho_entropy/trace_pre"
model = "clip_tiny"
images = "digits"
protocols = ["full"]
measured = "0.1 [0.0, 0.2] n=10"
reason = "because"
"""


def _load(tmp_path: Path, text: str) -> KnownNegatives:
    (tmp_path / "findings.toml").write_text(text)
    return KnownNegatives.load(tmp_path / "findings.toml")


def test_a_known_negative_holds_for_its_own_model_images_and_protocol_only(tmp_path: Path) -> None:
    negatives, settings = _load(tmp_path, ENTRY), Settings(models=("clip_tiny",))
    found = negatives.lookup("exp5", "rho_entropy/trace_pre", "clip_tiny", settings)
    assert found is not None
    assert found.reason == "because"
    assert negatives.lookup("exp5", "rho_entropy/trace_post", "clip_tiny", settings) is None
    assert negatives.lookup("exp5", "rho_entropy/trace_pre", "siglip_tiny", settings) is None
    another = Settings(models=("clip_tiny", "clip_b32"), random_weights=frozenset({"clip_b32"}))
    assert negatives.lookup("exp5", "rho_entropy/trace_pre", "clip_tiny", another) == found
    of_all = _load(tmp_path, ENTRY.replace('"clip_tiny"', '"all_models"'))
    assert of_all.lookup("exp5", "rho_entropy/trace_pre", "all_models", settings) is not None
    assert of_all.lookup("exp5", "rho_entropy/trace_pre", "all_models", another) is None


@pytest.mark.parametrize(
    "other",
    [
        Settings(models=("clip_tiny",), protocol="quick"),
        Settings(models=("clip_tiny",), images="folder:x"),
        Settings(models=("clip_tiny",), seed=1),
        Settings(models=("clip_tiny",), dropout=Dropout(0.05)),
        Settings(models=("clip_tiny",), dropout=Dropout(0.01, "mlp")),
        Settings(models=("clip_tiny",), dropout=Gaussian(0.01)),
        Settings(models=("clip_tiny",), random_weights=frozenset({"clip_tiny"})),
    ],
    ids=["protocol", "images", "seed", "p", "sites", "kind", "weights"],
)
def test_a_known_negative_says_nothing_about_another_protocol(tmp_path: Path, other: Settings) -> None:
    assert _load(tmp_path, ENTRY).lookup("exp5", "rho_entropy/trace_pre", "clip_tiny", other) is None


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"finding.0. has the unknown key 'mesured'; the nearest: measured"):
        _load(tmp_path, ENTRY.replace("measured", "mesured"))


def test_the_shipped_negatives_are_about_embedded_encoders() -> None:
    for negative in KnownNegatives.load().all:
        assert negative.model == "all_trainings" or REGISTRY[negative.model].embedded
        assert "n=" in negative.measured, f"{negative.claim}: a measured value has an n"
