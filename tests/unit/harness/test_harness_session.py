"""A session with a store: requests measured once, and values without a loaded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import (
    Features,
    FirstOrder,
    Images,
    Logits,
    Passes,
    Request,
    Session,
    Settings,
    TextFeatures,
    Texts,
    TokenCounts,
)  # fmt: skip
from mcdo.perturbation import Dropout, TiedDropout

SHOWN = Images(6)
PASSES = Passes("clip_tiny", SHOWN, MonteCarloConfig(Dropout(), (4, 8), 2, 42))
PROMPTS = ("a photo of a three", "a seven")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(("clip_tiny",), store=tmp_path / "store", reports=tmp_path / "reports")


def test_every_kind_of_request_is_served_from_the_store_without_a_model(settings: Settings) -> None:
    first, later = Session(settings), Session(replace(settings, from_store=True))
    runs: list[Request[Any]] = [
        PASSES,
        FirstOrder("clip_tiny", SHOWN, Dropout(), 3, 2),
        replace(PASSES, shown=Texts(PROMPTS)),
    ]
    for request in runs:
        one, other = (session.measure(request).scores("trace_post") for session in (first, later))
        np.testing.assert_array_equal(one, other)
    arrays: list[Request[Any]] = [
        Features("clip_tiny", SHOWN),
        Logits("clip_tiny", replace(SHOWN, degradation="blur:10%")),
        TextFeatures("clip_tiny", PROMPTS),
        TokenCounts("clip_tiny", PROMPTS),
    ]
    for request in arrays:
        one, other = (session.measure(request) for session in (first, later))
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert first.loads["clip_tiny"] == 1
    assert not later.loads, "no model may be loaded"


def test_what_is_not_in_the_store_is_named(settings: Settings) -> None:
    with pytest.raises(McdoError, match=r"cannot be read.*run once without --from-store"):
        Session(replace(settings, from_store=True)).measure(PASSES)
    Session(settings).measure(PASSES)
    later = Session(replace(settings, from_store=True))
    with pytest.raises(McdoError, match=r"not in the store.*run once without --from-store"):
        later.measure(replace(PASSES, config=replace(PASSES.config, dropout=TiedDropout())))
    with pytest.raises(McdoError, match="--from-store needs a store"):
        Session(replace(settings, from_store=True, store=None)).measure(PASSES)


class Weighted(nn.Module):
    """Multiplies with weights of its attention, where it is given any."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 8, 8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).mT
        out, weights = self.attn(x, x, x)
        return (out if weights is None else out * weights.amax(1)[..., None]).mean(1)  # type: ignore[no-any-return]


def test_features_that_are_others_where_maps_are_watched_are_not_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 32, "interpolation": "bicubic"}
    encoder = Encoder.of(Weighted(), numbers, name="clip_tiny")
    monkeypatch.setattr(Session, "encoder", lambda self, model: encoder)
    with pytest.raises(McdoError, match="its features are others where the tower's maps are watched"):
        Session(settings).measure(Features("clip_tiny", SHOWN))


def test_degraded_images_share_masks_and_origins_and_not_features(settings: Settings) -> None:
    session, blurred = Session(settings), replace(SHOWN, degradation="blur:10%")
    clean, damaged = session.image_set(SHOWN), session.image_set(blurred)
    assert damaged.mask_ids == clean.mask_ids
    assert damaged.origins == clean.origins
    assert not set(damaged.ids) & set(clean.ids)
    one, other = (session.measure(Features("clip_tiny", shown))["features"] for shown in (SHOWN, blurred))
    assert np.abs(one - other).max() > 0.1


def test_a_session_measures_a_planned_union_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    session, measured = Session(settings), []
    plain = Passes.measure

    def counted(self: Passes, where: Session) -> Any:
        measured.append(self)
        return plain(self, where)

    monkeypatch.setattr(Passes, "measure", counted)
    more = replace(PASSES, config=replace(PASSES.config, trials=3))
    session.plan([PASSES, more])
    assert session.measure(PASSES).scores("trace_pre").shape == (2, 6)
    assert session.measure(more).scores("trace_pre").shape == (3, 6)
    assert len(measured) == 1


def test_passes_join_over_passes_and_never_over_images_or_kinds() -> None:
    config = PASSES.config
    assert PASSES.union(replace(PASSES, config=replace(config, passes=(16,), trials=9))) is not None
    for other in (
        replace(PASSES, shown=Images(6, degradation="blur:5")),
        replace(PASSES, shown=Images(6, source="synthetic:solid")),
        replace(PASSES, shown=Images(7)),
        replace(PASSES, config=replace(config, dropout=TiedDropout())),
        replace(PASSES, config=replace(config, seed=1)),
    ):
        assert PASSES.union(other) is None
