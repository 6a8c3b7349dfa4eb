"""Trains the embedded encoders on the training split of scikit-learn's digits: ``python -m mcdo.encoders.train``.

This is a command and no part of the room (nothing imports it but its tests), which is why it may look at the images'
room. On one machine it gives the same weights every time: one thread, and every random number from the recipe's seed.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from mcdo.encoders.card import write_card
from mcdo.encoders.open_clip_backend import build
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.recipe import (
    CLASS_NAMES,
    CONTEXT_LENGTH,
    EMBEDDED,
    TEMPLATES,
    Recipe,
    replicate_folder,
    tokenizer,
    write_untrained,
)
from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import MODELS_DIR, EncoderSpec
from mcdo.errors import McdoError, nearest
from mcdo.images.digits import augment, training_split
from mcdo.threads import one_thread

_GREY = 0.5


def train(key: str, folder: Path, recipe: Recipe | None = None) -> list[float]:
    """Train one embedded encoder into ``folder``, without its card; returns the loss of every step."""
    recipe = recipe or Recipe()
    images, labels = training_split()
    write_untrained(REGISTRY[key], folder)
    model, losses = fit(REGISTRY[key], folder, images, labels, recipe)
    weights = folder / "open_clip_model.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    weights.chmod(0o644)
    return losses


def fit(
    spec: EncoderSpec, folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], recipe: Recipe
) -> tuple[Any, list[float]]:
    """The model of ``folder``'s configuration trained on uint8 [n, S, S] and labels [n]; and the loss of every step."""
    with one_thread():
        model = _initial(spec, folder, recipe.seed)
        optimizer = _optimizer(model, recipe)
        generator = torch.Generator().manual_seed(recipe.seed)
        captions, members = _captions(), [torch.from_numpy(np.flatnonzero(labels == c)) for c in range(10)]
        pixels, losses = torch.from_numpy(images), []
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, recipe)
            rows, classes = _groups(members, recipe.groups, generator)
            templates = torch.randint(len(TEMPLATES), (len(classes),), generator=generator)
            shown = distort(augment(pixels[rows][:, None], generator), recipe, generator)
            loss = _loss(spec, model, shown, captions, templates * len(CLASS_NAMES) + classes)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(recipe.max_logit_scale))
            losses.append(float(loss.detach()))
    return model.eval(), losses


def distort(views: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Smooth, cover and add noise to views [B, 1, S, S] in 0…1, and normalise them to [B, 3, S, S] in -1…1."""
    n, size = len(views), views.shape[-1]
    padded = functional.pad(views, (1, 1, 1, 1))
    tall = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    smooth = (tall[..., :-2] + 2 * tall[..., 1:-1] + tall[..., 2:]) / 4
    views = torch.where(torch.rand((n, 1, 1, 1), generator=generator) < recipe.blur, smooth, views)
    side = torch.rand(n, generator=generator) * recipe.occlusion
    corner = torch.rand((2, n), generator=generator) * (size - side)
    offset = torch.arange(size) - corner[..., None]
    inside = (offset >= 0) & (offset < side[None, :, None])
    views = torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], _GREY, views)
    strength = torch.rand((n, 1, 1, 1), generator=generator) * recipe.noise
    views = views + strength * torch.randn(views.shape, generator=generator)
    return ((views.clamp(0, 1) - _GREY) / 0.5).expand(-1, 3, -1, -1)


def _initial(spec: EncoderSpec, folder: Path, seed: int) -> Any:
    """The untrained model; its text tower starts the same whatever the image tower."""
    with quiet_libraries():
        model = build(f"local-dir:{folder}", seed)
        if spec.family != "clip":
            with TemporaryDirectory() as twin:
                write_untrained(REGISTRY["clip_tiny"], Path(twin))
                model.text.load_state_dict(build(f"local-dir:{twin}", seed).text.state_dict())
    return model.train()


def _optimizer(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; no decay of biases, norms and the two logit scalars."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)


def _learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _captions() -> Tensor:
    """Tokens [templates * classes, L]."""
    words = tokenizer()
    texts = [template.format(name) for template in TEMPLATES for name in CLASS_NAMES]
    rows = words(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH)["input_ids"]
    return torch.tensor(rows)


def _groups(members: list[Tensor], groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Image numbers and classes, each [groups * 10]: every run of ten holds each digit once, in a random order."""
    order = torch.stack([torch.randperm(len(members), generator=generator) for _ in range(groups)]).flatten()
    picks = torch.stack([rows[torch.randint(len(rows), (groups,), generator=generator)] for rows in members])
    return picks[order, torch.arange(groups).repeat_interleave(len(members))], order


def _loss(spec: EncoderSpec, model: Any, shown: Tensor, captions: Tensor, said: Tensor) -> Tensor:
    """open_clip's loss on each group of ten, averaged over the groups; ``said`` is the caption of each image."""
    loss: Any = ClipLoss() if spec.loss == "softmax" else SigLipLoss()
    image = model.encode_image(shown, normalize=True).unflatten(0, (-1, len(CLASS_NAMES)))
    text = model.encode_text(captions, normalize=True)[said].unflatten(0, (-1, len(CLASS_NAMES)))
    scale = model.logit_scale.exp()
    losses: Tensor = torch.vmap(lambda i, t: loss(i, t, scale, model.logit_bias))(image, text)
    return losses.mean()


def main() -> None:
    """Train the models named by ``--keys`` (default: all four) and write their cards.

    With ``--seeds`` each is trained once for each seed, into a folder KEY-SEED; what is there already is left.
    """
    parser = argparse.ArgumentParser(prog="python -m mcdo.encoders.train", description="retrain the embedded encoders")
    parser.add_argument("--keys", nargs="+", default=list(EMBEDDED), metavar="KEY", help=" ".join(EMBEDDED))
    parser.add_argument("--out", type=Path, default=MODELS_DIR, help="parent folder of the models")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, metavar="SEED", help="replicates, into KEY-SEED")
    arguments = parser.parse_args()
    for key in arguments.keys:
        if key not in EMBEDDED:
            raise McdoError(f"{key} is not an embedded encoder; the nearest: {nearest(key, EMBEDDED)}")
        if arguments.seeds is None:
            _train_and_tell(key, arguments.out / key, Recipe())
        for seed in arguments.seeds or ():
            folder = replicate_folder(key, seed, arguments.out)
            if not (folder / "card.json").is_file():  # which is written last
                _train_and_tell(key, folder, Recipe(seed=seed))


def _train_and_tell(key: str, folder: Path, recipe: Recipe) -> None:
    started = time.perf_counter()
    losses = train(key, folder, recipe)
    seconds = time.perf_counter() - started
    card = write_card(key, folder, recipe, losses)
    print(f"{folder.name}: {seconds:.0f} s, held-out accuracy {card['held_out']['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
