"""float16 and bfloat16: terms and moments in float32 or better, and passes that overflow are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcdo
from mcdo.encoders import Encoder, Prompts, TextTower, Tokens
from mcdo.errors import McdoError
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    MaskedSite,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
    deterministic_features,
    image_keys,
)
from mcdo.perturbation.normals import KeyedNormals

HALF = ("float16", "bfloat16")
KINDS: tuple[Perturbation, ...] = (
    Dropout(), TiedDropout(), Gaussian(), AttentionDropout(), HiddenDropout(), StochasticDepth(),
)  # fmt: skip


@cache
def encoder_of(key: str, precision: Any = "float32") -> Encoder:
    return mcdo.load_encoder(key, precision=precision)


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("around", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode, double])
def test_what_stands_around_a_call_changes_no_number(around: Callable[[], AbstractContextManager[Any]]) -> None:
    """Features and prompts used to be in bfloat16 inside autocast; the other two ended in a traceback."""

    def numbers() -> list[Any]:
        encoder, images = mcdo.load_encoder("clip_tiny"), mcdo.load_images("digits", n=2)
        scores = mcdo.monte_carlo(encoder, images, Dropout(), (4,), 1, progress=False).scores("trace_pre")
        return [deterministic_features(encoder, encoder.calibration_inputs(2)), encoder.encode_text(["a"]), scores]

    plain = numbers()
    with around():
        found = numbers()
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("kind", "precision"),
    zip(KINDS, 3 * HALF, strict=True),
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_first_order_is_taken_in_float32_whatever_the_precision(
    kind: Perturbation, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to crash in bfloat16, and to sum its terms in half."""
    monkeypatch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", 8)
    images = mcdo.load_images("digits", n=2)
    whole, half = (
        mcdo.first_order(encoder_of("siglip_tiny", each), images, kind, 2, 1, progress=False)
        for each in ("float32", precision)
    )
    np.testing.assert_array_equal(half.along, whole.along)
    np.testing.assert_array_equal(half.across, whole.across)
    assert half.provenance["dtype"] == precision


@pytest.mark.parametrize("kind", [Dropout(0.05), Gaussian(0.05), TiedDropout(0.05)], ids=lambda k: type(k).__name__)
def test_passes_in_half_precision_have_the_variance_of_float32(kind: Perturbation) -> None:
    """The same masks in arithmetic of another precision."""
    images = mcdo.load_images("digits", n=3)
    whole, *halves = (
        mcdo.monte_carlo(encoder_of("clip_tiny", precision), images, kind, 16, 1, geometry=(), progress=False)
        for precision in ("float32", *HALF)
    )
    for half in halves:
        for score in ("trace_pre", "trace_post", "norm_var"):
            assert not np.array_equal(half.scores(score), whole.scores(score))
            np.testing.assert_allclose(half.scores(score), whole.scores(score), rtol=0.05)


@pytest.mark.parametrize(
    ("precision", "kind", "refused"),
    [
        ("bfloat16", Dropout(1e-3), ""),
        ("bfloat16", Dropout(5e-5), r"bfloat16 adds \d+% to the variance that Dropout\(p=5e-05.*precision=float32"),
        ("bfloat16", Multiplicative(1e-4), r"adds \d+%"),
        ("bfloat16", Dropout(1e-3, "visual.transformer.resblocks.0.attn.in_proj"), r"adds \d+%"),
        ("float16", Dropout(5e-5), ""),
        ("float32", Dropout(5e-5), ""),
    ],
)
def test_passes_whose_variance_is_rounding_in_part_are_refused(
    precision: str, kind: Perturbation, refused: str
) -> None:
    """Rounding adds as much at any p: 12 % at p = 1e-5, 20 % at 1e-3 at one early site; nothing said so."""
    images = mcdo.load_images("digits", n=4)
    encoder = encoder_of("clip_tiny", precision)
    with pytest.raises(McdoError, match=refused) if refused else nullcontext():
        mcdo.monte_carlo(encoder, images, kind, (2,), 1, geometry=(), progress=False)


def test_the_census_is_taken_in_float32_whatever_the_precision() -> None:
    """Each site alone had up to two fifths too much in bfloat16."""
    images, kind = mcdo.load_images("digits", n=2), Dropout(0.01, "attention")
    whole, half = (
        mcdo.census(encoder_of("clip_tiny", precision), images, kind, progress=False)
        for precision in ("float32", "bfloat16")
    )
    assert half == whole


def test_the_scale_of_added_noise_does_not_overflow_in_float16() -> None:
    """A square beyond 65504 would make it infinite, and with it the features."""
    site = MaskedSite("a", 50, 0.2)
    plain = torch.full((2, 50), 900.0)
    whole, half = (
        KeyedNormals([site], 1, additive=True).disturb_(plain.to(t, copy=True), 0, 0, 0, image_keys(["x", "y"]), 0, 1)
        for t in (torch.float32, torch.float16)
    )
    torch.testing.assert_close(half.float(), whole, rtol=2e-3, atol=1)


class Large(nn.Module):
    """A factor before the last map that float16 holds unless dropout rescales it."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out * self.factor


def large(precision: Any, factor: float) -> Encoder:
    encoder = mcdo.load_encoder("siglip_tiny", precision=precision)
    trunk = encoder.model.get_submodule("visual.trunk")
    trunk.blocks[1].mlp.fc2 = Large(trunk.blocks[1].mlp.fc2, factor).eval()  # type: ignore[index, union-attr]
    encoder.model.requires_grad_(False)
    return encoder


@cache
def overflowing() -> tuple[Encoder, mcdo.ImageSet]:
    """A tower of which a plain pass of these images is finite in float16, by a margin of a third."""
    images, top = mcdo.load_images("digits", n=3), 0.0
    probe = large("float32", 1.0)
    blocks: Any = probe.model.get_submodule("visual.trunk.blocks")

    def note(module: nn.Module, inputs: Any, out: Tensor) -> None:
        nonlocal top
        top = max(top, float(out.abs().max()))

    blocks[1].mlp.fc2.register_forward_hook(note)
    pixels = torch.stack([probe.to_uint8(images.image(i)) for i in range(3)])
    probe.forward_image(probe.normalise(pixels))
    return large("float16", 65504 / top / 1.5), images


@pytest.mark.parametrize("geometry", [(), (16,)], ids=["moments", "spectrum"])
def test_a_pass_that_overflows_is_named_with_its_image_and_what_to_do(geometry: tuple[int, ...]) -> None:
    """It used to end in a LinAlgError of the spectrum, or in NaN."""
    encoder, images = overflowing()
    with pytest.raises(McdoError) as refused:
        mcdo.monte_carlo(encoder, images, Dropout(0.6), passes=(16,), trials=1, geometry=geometry, progress=False)
    said = str(refused.value)
    assert "siglip_tiny: pass " in said
    assert any(f"of {name} in trial 0 is not finite" in said for name in images.ids)
    assert "--precision=bfloat16" in said
    run = mcdo.monte_carlo(
        large("bfloat16", encoder.model.get_submodule("visual.trunk.blocks.1.mlp.fc2").factor),  # type: ignore[arg-type]
        images, Dropout(0.6), passes=(16,), trials=1, geometry=geometry, progress=False,
    )  # fmt: skip
    assert np.isfinite(run.scores("trace_pre")).all()


def test_the_pass_that_is_named_is_the_first_that_is_not_finite() -> None:
    from mcdo.estimators.overflow import check_finite

    encoder = encoder_of("clip_tiny")
    finite = torch.ones(2, 3, 20, dtype=torch.bool)
    check_finite(encoder, finite, "abc")
    finite[1, 2, 17] = finite[1, 2, 19] = False
    with pytest.raises(McdoError, match=r"pass 17 of c in trial 1 is not finite.*\(so are 2 of 120 passes\)"):
        check_finite(encoder, finite, "abc")
    with pytest.raises(McdoError, match=r"pass 17 of c in trial 6 "):
        check_finite(encoder, finite[1:], "abc", first_trial=6)


class Rooted(nn.Module):
    """A root of zero, whose derivative is infinite."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out + (0 * out).sqrt()


def test_derivatives_that_are_not_finite_are_refused_by_image() -> None:
    encoder = mcdo.load_encoder("siglip_tiny")
    mlp: Any = encoder.model.get_submodule("visual.trunk.blocks.1.mlp")
    mlp.act = Rooted(mlp.act).eval()
    with pytest.raises(McdoError, match=r"the derivative of the features of \S+ is not finite, unlike the features"):
        mcdo.first_order(encoder, mcdo.load_images("digits", n=1), Dropout(), 2, 1, progress=False)


PROMPTS = Prompts(("a two", "a photo of a one", "something that might be a six", "a detailed photo of a nine"))


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_first_order_takes_text_towers(key: str) -> None:
    """It used to end in a ValueError, because its basis was taken from noise of pixels."""
    tower = TextTower(encoder_of(key))
    kind = Multiplicative(0.001)
    exact = mcdo.first_order(tower, PROMPTS, kind, probes=tower.feature_dim + 1, trials=1, progress=False)
    passes = mcdo.monte_carlo(tower, PROMPTS, kind, passes=(256,), trials=1, geometry=(), progress=False)
    error = math.sqrt(2 / 256)  # of the variance of one dimension, such as the norm's
    for score in ("trace_pre", "trace_post", "norm_var"):
        ratio = passes.scores(score) / exact.scores(score)
        np.testing.assert_allclose(ratio, 1, atol=4 * error)
        assert ratio.mean() == pytest.approx(1, abs=4 * error / 2)
    given = mcdo.first_order(tower, PROMPTS, kind, 2, 1, pixels=Tokens.of(tower, PROMPTS), progress=False)
    assert given.ids == PROMPTS.ids
    np.testing.assert_allclose(given.scores("norm_var"), exact.scores("norm_var"), rtol=1e-4)  # no random probe


def test_images_for_a_text_tower_and_prompts_for_an_encoder_are_refused() -> None:
    encoder, images = encoder_of("clip_tiny"), mcdo.load_images("digits", n=2)
    shown: Any
    for tower, shown in ((encoder, PROMPTS), (TextTower(encoder), images)):
        for measure in (mcdo.first_order, mcdo.monte_carlo):
            with pytest.raises(McdoError, match="a text tower takes Prompts, an encoder takes images"):
                measure(tower, shown, Dropout(), progress=False)
