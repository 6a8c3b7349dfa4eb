from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor, nn
from toy_towers import (
    EMBEDDED,
    KINDS,
    LinearTower,
    Toy,
    encoder_of,
    fresh,
    keys_for,
    pixels_for,
    seeded,
    tower,
    toy,
)

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation import PASS_BLOCK, Dropout, KeyedMasks, MaskedSite, deterministic_features, perturbed


def fingerprint(encoder: Encoder) -> tuple[object, ...]:
    """State bytes, modules, their identities and their hooks."""
    state = hashlib.sha256()
    for name, value in encoder.model.state_dict().items():
        state.update(name.encode() + value.numpy().tobytes())
    modules = list(encoder.model.named_modules())
    hooks = [dict(v) for _, m in modules for k, v in vars(m).items() if k.endswith("_hooks")]
    own = [sorted(k for k in vars(m)) for _, m in modules]
    return state.hexdigest(), repr(encoder.model), [(n, id(m)) for n, m in modules], hooks, own


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_every_pass_is_exactly_the_deterministic_one(kind: str) -> None:
    encoder = tower(kind)
    pixels = pixels_for(encoder)
    with perturbed(encoder, Dropout(0.0), seed=1) as drop:
        passes = drop(pixels, keys_for(), trial=0, block=0)
    assert passes.shape == (3, PASS_BLOCK, encoder.forward_image(pixels).shape[1])
    assert torch.equal(passes, deterministic_features(encoder, pixels)[:, None].expand_as(passes))
    assert torch.equal(passes.var(dim=1), torch.zeros_like(passes[:, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_features_are_those_of_the_model(kind: str) -> None:
    encoder = tower(kind)
    pixels = pixels_for(encoder, 5)
    with torch.no_grad():
        raw = encoder.forward_image(pixels)
    found = deterministic_features(encoder, pixels)
    torch.testing.assert_close(found, raw, rtol=1e-5, atol=1e-5)
    if not any(isinstance(m, nn.MultiheadAttention) for _, t in encoder.image_modules for m in t.modules()):
        assert torch.equal(found, raw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_bit_identical_afterwards(kind: str, fails: bool) -> None:
    encoder = tower(kind)
    pixels, before = pixels_for(encoder), fingerprint(encoder)
    with torch.no_grad():
        raw = encoder.forward_image(pixels)
    generator = torch.get_rng_state()
    try:
        with perturbed(encoder, Dropout(0.3, ("all", "patch_embedding")), seed=1) as drop:
            assert not torch.equal(drop(pixels, keys_for(), 0, 0)[:, 0], raw)
            assert fingerprint(encoder) == before
            if fails:
                raise ValueError("in the middle")
    except ValueError:
        assert fails
    assert fingerprint(encoder) == before
    with torch.no_grad():
        assert torch.equal(encoder.forward_image(pixels), raw)
    assert torch.equal(torch.get_rng_state(), generator)


def test_perturbing_twice_is_an_error_and_the_first_context_stays_usable() -> None:
    encoder, other = tower("clip_tiny"), tower("siglip_tiny")
    pixels, keys = pixels_for(encoder), keys_for()
    with perturbed(encoder, Dropout(0.1), 0) as drop:
        first = drop(pixels, keys, 0, 0)
        with pytest.raises(McdoError, match="clip_tiny is perturbed already"), perturbed(encoder, Dropout(0.1), 0):
            pass
        assert torch.equal(drop(pixels, keys, 0, 0), first)
        with perturbed(other, Dropout(0.1), 0) as second:
            assert second(pixels, keys, 0, 0).isfinite().all()
    with perturbed(encoder, Dropout(0.1), 0) as drop:
        assert torch.equal(drop(pixels, keys, 0, 0), first)


def test_after_an_exception_the_encoder_can_be_perturbed_again() -> None:
    encoder = tower("clip_tiny")
    with pytest.raises(ZeroDivisionError), perturbed(encoder, Dropout(0.1), 0):
        raise ZeroDivisionError
    with pytest.raises(McdoError, match="unknown site"), perturbed(encoder, Dropout(0.1, "fc9"), 0):
        pass
    with perturbed(encoder, Dropout(0.1), 0):
        pass


def test_a_tower_is_dead_outside_its_own_context() -> None:
    encoder = tower("clip_tiny")
    with perturbed(encoder, Dropout(0.1), 0) as left:
        pass
    with pytest.raises(McdoError, match="outside its context"):
        left(pixels_for(encoder), keys_for(), 0, 0)
    with perturbed(encoder, Dropout(0.1), 0), pytest.raises(McdoError, match="outside its context"):
        left(pixels_for(encoder), keys_for(), 0, 0)


def test_a_tower_and_the_tensors_of_its_passes_are_gone_with_its_context_without_garbage_collection() -> None:
    encoder = fresh("clip_tiny")
    pixels = pixels_for(encoder, 2)
    gc.disable()
    try:
        with perturbed(encoder, Dropout(), 1) as passes:
            passes(pixels, keys_for(2), 0, 0)
            rows = weakref.ref(passes._local.rows[3])
            gone = weakref.ref(passes)
        del passes
        assert gone() is None
        assert rows() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("part", ["", "visual.transformer.resblocks.1.mlp"])
def test_a_model_in_training_mode_is_refused(part: str) -> None:
    encoder = fresh("clip_tiny")
    encoder.model.get_submodule(part).train()
    with (
        pytest.raises(McdoError, match=f"{part or 'the model'}.* is in training mode"),
        perturbed(encoder, Dropout(0.1), 0),
    ):
        pass
    encoder.model.eval()
    with perturbed(encoder, Dropout(0.1), 0):
        pass


def test_native_dropout_stays_off() -> None:
    from timm.models.vision_transformer import VisionTransformer

    def build(p: float) -> Encoder:
        shape: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        rates = {"drop_rate": p, "pos_drop_rate": p, "proj_drop_rate": p, "attn_drop_rate": p, "drop_path_rate": p}
        return encoder_of(seeded(lambda: Toy(VisionTransformer(num_classes=16, **shape, **rates))), 16)

    without, with_dropout = build(0.0), build(0.5)
    assert sum(isinstance(m, nn.Dropout) and m.p > 0 for m in with_dropout.model.modules()) >= 7
    pixels = pixels_for(without)
    plain = deterministic_features(without, pixels)
    for p in (0.0, 0.1):
        passes = []
        for encoder in (without, with_dropout):
            with perturbed(encoder, Dropout(p), 5) as drop:
                passes.append(drop(pixels, keys_for(), 0, 0))
        assert torch.equal(*passes)
        assert torch.equal(passes[0][:, 0], plain) == (p == 0)


@pytest.mark.parametrize("kind", ["open_clip", "open_clip_in_house", "open_clip_pooled", "hf_clip", "clip_tiny"])
def test_units_that_are_kept_are_scaled_and_the_others_are_those_of_the_mask(kind: str) -> None:
    encoder, p, seed = tower(kind), 0.3, 9
    pixels, keys = pixels_for(encoder), keys_for()
    with perturbed(encoder, Dropout(p, "projection"), seed) as drop:
        (last,) = drop.sites
        passes = drop(pixels, keys, trial=2, block=3)
    plain = deterministic_features(encoder, pixels)[:, None].expand_as(passes)
    mask = torch.ones_like(passes)
    KeyedMasks([MaskedSite(last.name, last.units, p)], seed).zero_(mask, 0, 2, 3, keys, 0, PASS_BLOCK)
    torch.testing.assert_close(passes, plain * mask / (1 - p), rtol=1e-5, atol=1e-6)
    assert torch.equal(passes == 0, mask == 0)


@pytest.mark.parametrize(("sites", "p"), [("patch_embedding", 0.05), ("mlp", 0.9)])
def test_the_mean_over_passes_is_unbiased_in_a_linear_tower(sites: str, p: float) -> None:
    encoder = toy(LinearTower)
    pixels, keys = pixels_for(encoder, 8), keys_for(8)
    with perturbed(encoder, Dropout(p, sites), seed=4) as drop:
        passes = torch.cat([drop(pixels, keys, 0, block) for block in range(250)], dim=1).double()
    error = passes.mean(1) - deterministic_features(encoder, pixels)
    z = (error / (passes.std(1) / passes.shape[1] ** 0.5)).numpy()
    # 48 means; false alarm 1e-4
    assert np.abs(z).max() < scipy.stats.norm.isf(1e-4 / 2 / z.size)


@pytest.mark.parametrize("kind", EMBEDDED)
def test_passes_do_not_depend_on_how_they_are_split_nor_on_the_other_images(kind: str) -> None:
    encoder = tower(kind)
    pixels, keys = pixels_for(encoder, 4), keys_for(4)
    with perturbed(encoder, Dropout(0.05), 3) as drop:
        whole = drop(pixels, keys, 1, 2)
        split = torch.cat([drop(pixels, keys, 1, 2, a, b) for a, b in ((0, 3), (3, 4), (4, 16))], dim=1)
        some = drop(pixels[[3, 1]], keys[[3, 1]], 1, 2)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some, whole[[3, 1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "sizes"), [(None, [16, 16, 5]), (20, [10, 6, 10, 6, 5]), (1, [1] * 37)])
def test_passes_of_a_trial_come_in_order_and_in_pieces_within_their_blocks(rows: int | None, sizes: list[int]) -> None:
    encoder = tower("clip_tiny")
    pixels, keys = pixels_for(encoder, 2), keys_for(2)
    with perturbed(encoder, Dropout(0.05), 3) as drop:
        pieces = list(drop.passes(pixels, keys, 1, 37, rows))
        blocks = torch.cat([drop(pixels, keys, 1, 0), drop(pixels, keys, 1, 1), drop(pixels, keys, 1, 2, 0, 5)], dim=1)
    assert [piece.shape[1] for piece in pieces] == sizes
    torch.testing.assert_close(torch.cat(pieces, dim=1), blocks, rtol=1e-5, atol=1e-5)


def test_pixels_that_were_overwritten_in_place_are_seen() -> None:
    encoder = tower("clip_tiny")
    pixels, keys = pixels_for(encoder), keys_for()
    other = pixels_for(encoder, seed=1)
    with perturbed(encoder, Dropout(0.1), 0) as drop:
        expected, before = drop(other, keys, 0, 0), drop(pixels, keys, 0, 0)
        pixels.copy_(other)
        assert torch.equal(drop(pixels, keys, 0, 0), expected)
        with torch.inference_mode():
            buffer = other.clone()
            assert torch.equal(drop(buffer, keys, 0, 0), expected)
            buffer.copy_(pixels_for(encoder))
            assert torch.equal(drop(buffer, keys, 0, 0), before)


def bad_passes(drop: Any, pixels: Tensor) -> Tensor:
    return drop(pixels, keys_for(), 0, 0, 0, PASS_BLOCK + 1)  # type: ignore[no-any-return]


def no_passes(drop: Any, pixels: Tensor) -> Tensor:
    return drop(pixels, keys_for(), 0, 0, 5, 5)  # type: ignore[no-any-return]


def too_many_keys(drop: Any, pixels: Tensor) -> Tensor:
    return drop(pixels, keys_for(4), 0, 0)  # type: ignore[no-any-return]


def another_size(drop: Any, pixels: Tensor) -> Tensor:
    return drop(pixels.repeat(1, 1, 2, 2), keys_for(), 0, 0)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad_passes, r"passes 0:17 are not in a block of 16"),
        (no_passes, r"passes 5:5 are not in a block"),
        (too_many_keys, r"4 image keys for 3 images"),
        (another_size, r"c_fc has output \(48, 16, 12\) for 48 rows, not 48 units each; images must have 16 px"),
    ],
)
def test_a_call_that_the_masks_do_not_fit_is_refused(call: Callable[[Any, Tensor], Tensor], message: str) -> None:
    encoder = toy(LinearTower)
    with perturbed(encoder, Dropout(0.1), 0) as drop, pytest.raises(McdoError, match=message):
        call(drop, pixels_for(encoder))


class InPieces(LinearTower):
    """Takes its batch in pieces of so many images."""

    size = 1

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([super(InPieces, self).forward(piece) for piece in torch.split(pixels, self.size)])


@pytest.mark.parametrize("size", [2, 4])
def test_a_tower_that_takes_its_batch_in_pieces_is_told_to_take_it_whole(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InPieces, "size", size)
    encoder = toy(InPieces)
    said = pytest.raises(McdoError, match=r"c_fc.* batch.* in pieces.* let it take (it|the batch) whole")
    with said, perturbed(encoder, Dropout(0.1, ("fc1", "fc2")), 0) as drop:
        drop(pixels_for(encoder, 6), keys_for(6), 0, 0)


@pytest.mark.parametrize("sites", ["", [], ()])
def test_no_sites_at_all_are_refused(sites: Any) -> None:
    with pytest.raises(McdoError, match="sites are empty"):
        Dropout(0.1, sites)


def test_dropout_is_equal_by_value_and_keeps_sites_as_a_tuple() -> None:
    assert Dropout(0.1, ["fc1", "fc2"]) == Dropout(0.1, ("fc1", "fc2"))
    assert hash(Dropout(0, "mlp")) == hash(Dropout(0.0, "mlp"))
    assert Dropout(0.2).scale == pytest.approx(1.25)
