"""Any module as an encoder: what it returns, how its pictures are prepared, and what is skipped without text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mcdo
from mcdo.encoders import Encoder, TextTower
from mcdo.errors import McdoError, NoTextTowerError
from mcdo.perturbation import Dropout, check_alive, find_sites

NUMBERS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "size": 32, "interpolation": "bicubic"}


@dataclass
class Output:
    embeds: Tensor
    tokens: Tensor


class Tower(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Any] = lambda x: x.mean(1)) -> None:
        super().__init__()
        self.embed, self.mlp = nn.Conv2d(3, 12, 8, 8), nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.head, self.shape = nn.Linear(12, 6), shape

    def forward(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT
        return self.shape(self.head(x + self.mlp(x)))


def tower(shape: Callable[[Tensor], Any] = lambda x: x.mean(1)) -> Tower:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Tower(shape)


def own(**given: Any) -> Encoder:
    return Encoder.of(tower(), NUMBERS, **given)


def picture(height: int = 70, width: int = 50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def open_clip_transform() -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(size=32, resize_mode="squash", mean=(0.1, 0.2, 0.3)), is_train=False)


def timm_configuration() -> Any:
    return {
        "input_size": (3, 32, 32), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.4,) * 3,
        "crop_pct": 0.9, "crop_mode": "center",
    }  # fmt: skip


def timm_transform() -> Any:
    from timm.data import create_transform

    return create_transform(**timm_configuration(), is_training=False)


def torchvision_preset() -> Any:
    from torchvision.transforms._presets import ImageClassification

    return ImageClassification(crop_size=32, resize_size=40)


def torchvision_v2(*steps: Any) -> Any:
    from torchvision.transforms import v2

    first = steps or (v2.Resize(40), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True))
    return v2.Compose([*first, v2.Normalize((0.5,) * 3, (0.25,) * 3)])


def transformers_processor() -> Any:
    from transformers import BitImageProcessor

    return BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})


FORMS = (
    open_clip_transform, timm_transform, timm_configuration, torchvision_preset, torchvision_v2, transformers_processor,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_pictures_are_prepared_as_by_the_library_itself(form: Callable[[], Any]) -> None:
    whole, image = form(), picture()
    encoder = Encoder.of(tower(), whole)
    if isinstance(whole, dict):
        whole = timm_transform()
    hf = hasattr(whole, "image_mean")
    expected = whole(images=image, return_tensors="pt")["pixel_values"][0] if hf else whole(image)
    pixels = encoder.to_uint8(image)
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(encoder.normalise(pixels[None])[0], torch.as_tensor(expected), rtol=0, atol=1e-4)
    assert Encoder.of(tower(), form()).preprocess_id == encoder.preprocess_id
    assert " at 0x" not in encoder.preprocess_id


def test_numbers_make_open_clip_s_own_transform() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    for mode in ("shortest", "longest", "squash"):
        encoder = Encoder.of(tower(), {**NUMBERS, "resize_mode": mode})
        expected = image_transform_v2(PreprocessCfg(**NUMBERS, resize_mode=mode), is_train=False)(picture())
        torch.testing.assert_close(encoder.normalise(encoder.to_uint8(picture())[None])[0], expected)
    assert len({Encoder.of(tower(), {**NUMBERS, "resize_mode": m}).preprocess_id for m in ("shortest", "squash")}) == 2


def shorter(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return image.crop((0, 0, side, side))


def v2() -> Any:
    """Imported when a test runs: what torchvision brings along is a sixth of the collection's time."""
    from torchvision.transforms import v2

    return v2


def to_float() -> tuple[Any, Any]:
    return v2().ToImage(), v2().ToDtype(torch.float32, scale=True)


def in_patches() -> Any:
    from transformers import Siglip2ImageProcessor

    return Siglip2ImageProcessor()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "random": (lambda: torchvision_v2(v2().RandomResizedCrop(32), *to_float()), "random steps"),
    "late resize": (
        lambda: torchvision_v2(*to_float(), v2().Resize((32, 32))),
        "before the picture becomes floats",
    ),
    "no normalise": (lambda: v2().Compose([v2().Resize((32, 32)), *to_float()]), "does not end in Normalize"),
    "oblong": (lambda: torchvision_v2(v2().Resize((32, 40)), *to_float()), r"\[3, 32, 40\] .* only squares"),
    "any size": (lambda: torchvision_v2(v2().Lambda(shorter), *to_float()), "squares of different sizes"),
    "no std": (lambda: {"mean": (0.5,) * 3, "size": 32, "interpolation": "bicubic"}, "does not state std"),
    "mistyped": (lambda: {**NUMBERS, "resize_mod": "squash"}, "unknown key 'resize_mod'; the nearest: resize_mode"),
    "value": (lambda: {**NUMBERS, "interpolation": "cubic"}, "interpolation = 'cubic': say bicubic or bilinear"),
    "bytes": (
        lambda: {**NUMBERS, "mean": (123.7, 116.3, 103.5)},
        "pixels lie between 0 and 1 here; divide mean and std",
    ),
    "timm without mean": (lambda: {"input_size": (3, 32, 32)}, "does not state mean"),
    "nothing": (lambda: 3, "preprocessing is int; give a transform"),
    "patches": (in_patches, "rows of patches"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_preprocessing_that_cannot_be_taken_apart_is_refused_in_words(given: Callable[[], Any], said: str) -> None:
    with pytest.raises(McdoError, match=rf"own: .*{said}"):
        Encoder.of(tower(), given())


PLACES: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "tensor": (lambda x: x.mean(1), None),
    "tuple": (lambda x: (x, x.mean(1)), 1),
    "dict": (lambda x: {"tokens": x, "embeds": x.mean(1)}, "embeds"),
    "object": (lambda x: Output(x.mean(1), x), "embeds"),
    "function": (lambda x: Output(x.mean(1), x), lambda out: out.tokens.mean(1)),
}


@pytest.mark.parametrize("place", PLACES)
def test_features_are_found_where_the_module_puts_them(place: str) -> None:
    shape, features = PLACES[place]
    module, pixels = tower(shape), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    encoder = Encoder.of(module, NUMBERS, features=features, name="mine")
    torch.testing.assert_close(encoder.forward_image(pixels), tower()(pixels))
    assert (encoder.key, encoder.feature_dim, encoder.resolution) == ("mine", 6, 32)
    assert [site.name for site in find_sites(encoder).sites] == ["embed", "mlp.0", "mlp.2", "head"]


@pytest.mark.parametrize(
    ("shape", "features", "said"),
    [
        (
            lambda x: (x, x.mean(1)),
            None,
            r"returns tuple of a tensor \[2, 16, 6\], a tensor \[2, 6\]; say with features=",
        ),
        (lambda x: Output(x.mean(1), x), None, "returns Output with embeds, tokens; say with features="),
        (lambda x: Output(x.mean(1), x), "embed", "without 'embed'; the nearest: embeds"),
        (lambda x: (x, x.mean(1)), 2, "without 2"),
        (lambda x: x, None, r"features of shape \[2, 16, 6\], not \[B, 6\]; pool the tokens"),
        (lambda x: 1.0, lambda out: out, "its features are float"),
        (lambda x: x @ x, None, r"the module fails on pixels, float32 \[2, 3, 32, 32\]"),
        (lambda x: x.mean(1).squeeze(), None, r"its features are a tensor \[6\]; they must be a tensor \[B, D\]"),
        (lambda x: nn.BatchNorm1d(6, track_running_stats=False)(x.mean(1)), None, r"fails on pixels, float32 \[1, 3,"),
        (lambda x: (h := x.mean(1)) - h.mean(0), None, "alone and beside another differ, by .*mixes the pictures of"),
        (lambda x: nn.functional.dropout(x.mean(1), 0.5), None, "alone and beside another differ"),
    ],
)
def test_features_that_are_not_found_are_refused_in_words(shape: Any, features: Any, said: str) -> None:
    with pytest.raises(McdoError, match=f"own: .*{said}"):
        Encoder.of(tower(shape), NUMBERS, features=features)
    with pytest.raises(McdoError, match=r"is no torch\.nn\.Module"):
        Encoder.of(lambda x: x, NUMBERS)  # type: ignore[arg-type]


class Writing(Tower):
    """Normalises the pixels that it is given where they lie."""

    def forward(self, pixels: Tensor) -> Any:
        return super().forward(pixels.sub_(0.3).mul_(1.5))


class Sparing(Tower):
    def forward(self, pixels: Tensor) -> Any:
        return super().forward((pixels - 0.3) * 1.5)


def test_a_module_that_writes_into_its_pixels_is_measured_as_one_that_does_not() -> None:
    images, runs = mcdo.load_images("digits", n=6), []
    for build in (Writing, Sparing):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            encoder = Encoder.of(build(), NUMBERS)
        first = mcdo.first_order(encoder, images, Dropout(0.05), probes=4, trials=2, progress=False)
        run = mcdo.monte_carlo(encoder, images, Dropout(0.05), passes=(4, 64), trials=2, progress=False)
        runs.append((run.scores("trace_pre", passes=64), first.scores("trace_pre")))
    for written, spared in zip(*runs, strict=True):
        np.testing.assert_array_equal(written, spared)


def test_a_module_without_weights_is_refused() -> None:
    with pytest.raises(McdoError, match=r"own: the module cannot be put on cpu: .*load its weights"):
        Encoder.of(tower().to("meta"), NUMBERS, device="cpu")


def clip_of_transformers() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**size, "image_size": 32, "patch_size": 16}
    made: nn.Module = CLIPModel(CLIPConfig(text_config={**size, "vocab_size": 9}, vision_config=vision))
    return made


def clip_of_open_clip() -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(image_size=32, patch_size=16, width=16, layers=1, head_width=8)
    made: nn.Module = CLIP(8, vision, CLIPTextCfg(context_length=4, vocab_size=8, width=8, heads=1, layers=1))
    return made


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (clip_of_transformers, "CLIPModel wants texts beside: give its image tower with the projection"),
        (clip_of_open_clip, "CLIP reads texts beside: give its image tower, .visual"),
    ],
)
def test_a_whole_model_of_images_and_texts_is_told_which_part_to_give(
    build: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(McdoError, match=said):
        Encoder.of(build(), NUMBERS)


class Caching(Tower):
    """Keeps what it makes of a weight in its first pass, and forgets it where it is told how to run."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.kept = nn.Parameter(torch.ones(3, 6)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> Caching:
        super().train(mode)
        self.kept = {}
        return self

    def forward(self, pixels: Tensor) -> Any:
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias.sum(0)
        return super().forward(pixels) + self.kept["bias"]


def test_what_a_first_pass_leaves_behind_changes_no_identity() -> None:
    encoder = Encoder.of(Caching(), NUMBERS, random_weights=True)
    before = encoder.architecture, encoder.weights_hash
    check_alive(encoder, encoder.calibration_inputs(1), Dropout(0.1))
    assert len(encoder.model.kept) == 1  # type: ignore[arg-type]
    assert (encoder.architecture, encoder.weights_hash) == before


def test_an_unknown_precision_is_refused() -> None:
    """It used to end in a traceback at the first pass."""
    with pytest.raises(McdoError, match="precision='fp16': say float32, bfloat16, float16"):
        own(name="own", precision="fp16")


def test_packed_weights_are_refused_by_name() -> None:
    from torch.testing._internal.two_tensor import TwoTensor  # a tensor of torch's own that only looks like one

    module = tower()
    weight = module.head.weight.detach()
    module.head.weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    with pytest.raises(McdoError, match=r"own: head\.weight is a TwoTensor, which is no plain tensor but packed"):
        Encoder.of(module, NUMBERS)


def test_weights_that_are_no_numbers_are_refused_and_a_mask_of_infinities_is_not() -> None:
    module = tower()
    module.register_buffer("mask", torch.full((2, 2), -torch.inf))
    Encoder.of(module, NUMBERS)
    with torch.no_grad():
        module.head.weight[1, :2] = torch.nan
    with pytest.raises(McdoError, match=r"own: head\.weight holds 2 of \d+ numbers that are NaN or infinite"):
        Encoder.of(module, NUMBERS)


def test_the_module_is_frozen_in_float32_and_evaluation_mode() -> None:
    module = tower().half().train()
    encoder = Encoder.of(module, NUMBERS)
    assert not module.training
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in module.parameters())
    assert encoder.model is module
    assert Encoder.of(tower(), NUMBERS).weights_hash == Encoder.of(tower(), NUMBERS).weights_hash


class Rotated(Tower):
    """Turns what it embeds by complex numbers, as rotary positions are written."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Tensor
        self.register_buffer("turns", torch.polar(torch.ones(16, 6), torch.arange(96.0).view(16, 6)))

    def forward(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT.unflatten(-1, (6, 2)).contiguous()
        return self.head(torch.view_as_real(torch.view_as_complex(x) * self.turns).flatten(2)).mean(1)


def test_complex_numbers_of_a_module_stay_complex() -> None:
    """They used to lose their imaginary part, and features were another model's."""
    module, pixels = Rotated().eval(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(pixels)
        assert torch.equal(Encoder.of(module, NUMBERS).forward_image(pixels), expected)


def test_what_needs_text_says_so() -> None:
    encoder, images = own(name="mine"), mcdo.load_images("digits", n=4)
    assert not encoder.has_text
    asked: dict[str, Callable[[], Any]] = {
        "prompts": lambda: encoder.encode_text(["a one"]),
        "tokens": lambda: encoder.tokenize(["a one"]),
        "features": lambda: encoder.forward_text(torch.zeros(1, 4, dtype=torch.long)),
        "logits": lambda: encoder.zero_shot_logits(torch.zeros(1, 6), ["one", "two"], "a {}"),
        "scale": lambda: encoder.logit_scale,
        "collapse": lambda: encoder.text_collapse(["a", "b"]),
        "tower": lambda: TextTower(encoder),
    }
    for ask in asked.values():
        with pytest.raises(NoTextTowerError, match="mine has no text tower"):
            ask()
    run = mcdo.monte_carlo(encoder, images, Dropout(0.05), passes=(16,), trials=2, progress=False)
    assert run.scores("trace_pre").shape == (2, 4)


@pytest.mark.parametrize("way", ["wrapper", "in place", "inner"])
def test_a_compiled_module_is_measured_as_the_module_itself(way: str) -> None:
    module, compiled = tower(), tower()
    if way == "wrapper":
        compiled = torch.compile(compiled)  # type: ignore[assignment]
    elif way == "in place":
        compiled.compile()
    else:
        compiled.mlp = torch.compile(compiled.mlp)  # type: ignore[assignment]
    images, runs = mcdo.load_images("digits", n=4), []
    for each in (module, compiled):
        encoder = Encoder.of(each, NUMBERS)
        assert [site.name for site in find_sites(encoder).sites] == ["embed", "mlp.0", "mlp.2", "head"]
        runs.append(mcdo.monte_carlo(encoder, images, Dropout(0.05), passes=(16,), trials=2, progress=False))
    np.testing.assert_array_equal(runs[1].scores("trace_pre"), runs[0].scores("trace_pre"))
