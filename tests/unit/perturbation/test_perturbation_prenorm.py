"""Features are those before normalisation, or refused: else "pre" would be "post" and the norm no control."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_towers import BareProjection, Toy, encoder_of, pixels_for, seeded, toy

import mcdo
from mcdo.encoders import Encoder, Prompts, TextTower
from mcdo.errors import McdoError
from mcdo.perturbation import Dropout, check_alive, find_sites


def coca(folder: Path, **vision: Any) -> Encoder:
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True}
    size = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    pool = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    cfg = {
        "embed_dim": 32,
        "vision_cfg": {**size, **pool, **vision},
        "text_cfg": {**text, "output_tokens": True},
        "multimodal_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    folder.joinpath("open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    return mcdo.load_encoder(f"local-dir:{folder}", weights="random")


def test_random_weights_of_coca_follow_from_the_seed_alone(tmp_path: Path) -> None:
    """One of its parameters is never set by open_clip, and held what had been in memory before."""
    one = coca(tmp_path)
    left = [torch.full((790528,), math.nan) for _ in range(8)]
    del left  # for the next to find
    assert coca(tmp_path).weights_hash == one.weights_hash
    unset = dict(one.model.named_parameters())["text_decoder.text_projection"]
    assert float(unset.std()) == pytest.approx(len(unset) ** -0.5, rel=0.01)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("vision", [{}, {"attentional_pool": "parallel"}, {"attentional_pool": "cascade"}])
def test_coca_is_read_before_it_normalises(vision: dict[str, Any], tmp_path: Path) -> None:
    """encode_image and encode_text normalise unless told not to; some of its pooling heads keep a token axis."""
    encoder = coca(tmp_path, **vision)
    model: Any = encoder.model
    pixels, tokens = encoder.calibration_inputs(4), encoder.tokenize(["a cat", "two dogs", "the sea"])
    with torch.no_grad():
        for ours, theirs in (
            (encoder.forward_image(pixels), model.encode_image(pixels).reshape(4, 32)),
            (encoder.forward_text(tokens), model.encode_text(tokens)),
        ):
            assert ours.norm(dim=-1).std() > 1e-3
            torch.testing.assert_close(nn.functional.normalize(ours, dim=-1), theirs, rtol=1e-4, atol=1e-5)
    images, sites = mcdo.load_images("digits", n=4), ["all"]
    if vision.get("attentional_pool") == "parallel":  # one head pools for captions only
        with pytest.raises(McdoError, match=r"dead site visual\.attn_pool\.attn\.in_proj\.q"):
            check_alive(encoder, pixels[:1], Dropout(0.05))
        sites.append("-visual.attn_pool.*")
    run = mcdo.monte_carlo(encoder, images, Dropout(0.05, sites), passes=(16,), trials=1, progress=False)
    assert "pooling_head" in run.roles
    assert run.scores("mean_shift").shape == run.scores("norm_var").shape == (1, 4)
    assert (run.scores("norm_var") > 1e-4 * run.scores("trace_pre")).all()
    assert not np.allclose(run.scores("trace_pre"), run.scores("trace_post"), rtol=0.01)


class Ended(BareProjection):
    """Ends as ``end`` says."""

    end: Callable[[Tensor], Tensor]

    def forward(self, pixels: Tensor) -> Tensor:
        return type(self).end(super().forward(pixels))


class Unit(Ended):
    end = staticmethod(lambda x: nn.functional.normalize(x, dim=-1))


class Scaled(Ended):
    end = staticmethod(lambda x: 7.5 * nn.functional.normalize(x, dim=-1))


class Centred(Ended):
    end = staticmethod(lambda x: nn.functional.layer_norm(x, x.shape[-1:]))


class HalfUnit(Ended):
    """Normalised in float16: norms differ by a thousandth of rounding."""

    end = staticmethod(lambda x: nn.functional.normalize(x.half(), dim=-1))


class Nearly(Ended):
    """Norms between .95 and 1: no tower's are constant that differ by so much."""

    end = staticmethod(lambda x: nn.functional.normalize(x, dim=-1) * (1 - 0.05 * x[:, :1].sigmoid()))


@pytest.mark.parametrize("build", [Unit, Scaled, Centred, HalfUnit])
def test_a_tower_whose_norm_is_constant_is_refused(build: type[Ended]) -> None:
    encoder = toy(build, 5)
    with pytest.raises(McdoError, match=r"one and the same norm .*normalize=False"):
        find_sites(encoder)
    with pytest.raises(McdoError, match="one and the same norm"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))


def test_norms_that_differ_are_no_constant() -> None:
    assert len(find_sites(toy(Nearly, 5)).select("all")) == 3


class Noisy(Ended):
    """Random numbers of its own that are never off."""

    end = staticmethod(lambda x: x + 0.1 * torch.randn_like(x))


class Mixing(Ended):
    """What batch statistics make of a tower: the features of an image depend on the other images."""

    end = staticmethod(lambda x: x + torch.arange(len(x))[:, None] * x.mean())


@pytest.mark.parametrize("build", [Noisy, Mixing])
def test_a_tower_with_random_numbers_of_its_own_is_refused(build: type[Ended]) -> None:
    """Its variance over passes is not that of the masks, and no seed repeats it."""
    with pytest.raises(McdoError, match="features of one and the same input differ within a batch"):
        find_sites(toy(build, 5))


class Blind(BareProjection):
    """The pixels are lost on the way."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(pixels))


def test_a_tower_that_does_not_see_the_image_is_refused() -> None:
    with pytest.raises(McdoError, match="the same to the last bit: they do not follow the input"):
        find_sites(toy(Blind, 5))


class Faint(nn.Module):
    """Hardly sees the image, as an untrained tower with tiny scales on its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bias, self.proj = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(8)), nn.Linear(8, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.proj(self.bias + 1e-6 * self.conv1(pixels).mean((2, 3)))
        return out


def test_a_tower_that_hardly_sees_the_image_is_not_taken_for_normalised() -> None:
    assert len(find_sites(encoder_of(seeded(lambda: Toy(Faint())), 6)).sites) == 2


def test_a_text_tower_that_normalises_is_refused() -> None:
    encoder = mcdo.load_encoder("clip_tiny")
    object.__setattr__(
        encoder.towers, "text", lambda x, plain=encoder.towers.text: nn.functional.normalize(plain(x), dim=-1)
    )
    prompts = Prompts(("a one", "a two"))
    with pytest.raises(McdoError, match="clip_tiny:text: the features of different inputs have one and the same norm"):
        mcdo.monte_carlo(TextTower(encoder), prompts, Dropout(), passes=(16,), trials=1, progress=False)


def test_features_that_are_not_finite_are_refused() -> None:
    encoder = toy(BareProjection, 5)
    encoder.model.get_parameter("visual.proj").data[0, 0] = torch.nan
    with pytest.raises(McdoError, match="its features of fixed calibration inputs are not finite"):
        find_sites(encoder)
