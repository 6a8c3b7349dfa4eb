"""The card beside each embedded encoder: what it was made from and how, what it can do, and what it is not for."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scipy
import torch

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.load import load_encoder
from mcdo.encoders.recipe import (
    CLASS_NAMES,
    CONTEXT_LENGTH,
    HEADS,
    LAYERS,
    MLP_RATIO,
    PATCH,
    RESOLUTION,
    TEMPLATES,
    TEXT_LAYERS,
    WIDTH,
    Recipe,
)
from mcdo.encoders.registry import REGISTRY
from mcdo.images.digits import digits

TEMPLATE = TEMPLATES[0]
LOSS_NAMES = {"softmax": "open_clip.loss.ClipLoss", "sigmoid": "open_clip.loss.SigLipLoss"}
TOWER_NAMES = {
    "clip": "open_clip VisionTransformer: nn.MultiheadAttention, class token, bare projection parameter",
    "siglip": "timm VisionTransformer: fused qkv, attention pooling, no class token",
}
DATA = (
    "The 1197 training images of mcdo's split of scikit-learn's load_digits (UCI Optical Recognition of Handwritten "
    "Digits, test part; 8 x 8, CC BY 4.0), rendered to 32 x 32 by bicubic interpolation, with seeded affine "
    "augmentation, smoothing, occlusion and noise, and captions from templates."
)
NOT_FOR = (
    "Reading digits or anything else in earnest. It has seen 1197 small pictures and 29 words: its accuracy, its "
    "uncertainty and every verdict of the harness on it speak of this model alone, not of CLIP or SigLIP at full size."
)


def held_out(encoder: Encoder, seed: int = 42) -> dict[str, Any]:
    """Zero-shot accuracy on the 600 held-out digits with a Wilson interval, and quantiles of the entropy."""
    images = digits(None, seed)
    pixels = torch.stack([encoder.to_uint8(images.image(i)) for i in range(len(images))])
    with torch.no_grad():
        features = torch.cat([encoder.forward_image(encoder.normalise(part)) for part in torch.split(pixels, 200)])
        log_p = encoder.zero_shot_logits(features, images.class_names, TEMPLATE).double().log_softmax(-1).cpu()
    correct = int((log_p.argmax(-1) == torch.tensor(images.labels)).sum())
    interval = scipy.stats.binomtest(correct, len(images)).proportion_ci(method="wilson")
    entropy = -(log_p.exp() * log_p).sum(-1)
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    return {
        "n": len(images),
        "correct": correct,
        "accuracy": correct / len(images),
        "wilson_95": [interval.low, interval.high],
        "mean_confidence": float(log_p.exp().amax(-1).mean()),
        "template": TEMPLATE,
        "entropy_quantiles_nats": dict(
            zip(("10", "25", "50", "75", "90"), entropy.quantile(levels).tolist(), strict=True)
        ),
    }


def write_card(key: str, folder: Path, recipe: Recipe, losses: list[float]) -> dict[str, Any]:
    """Measure the trained model in ``folder`` and write card.json and README.md beside it."""
    encoder, spec = load_encoder(f"local-dir:{folder}"), REGISTRY[key]
    prompts = [TEMPLATE.format(name) for name in CLASS_NAMES]
    card: dict[str, Any] = {
        "key": key,
        "tower": TOWER_NAMES[spec.family],
        "loss": LOSS_NAMES[spec.loss],
        "size": {
            "resolution": RESOLUTION, "patch": PATCH, "width": WIDTH, "layers": LAYERS, "heads": HEADS,
            "mlp_ratio": MLP_RATIO, "text_layers": TEXT_LAYERS, "context_length": CONTEXT_LENGTH,
            "parameters": sum(p.numel() for p in encoder.model.parameters()),
        },
        "data": DATA,
        "templates": list(TEMPLATES),
        "recipe": {**recipe.as_dict(), "batch": 10 * recipe.groups, "optimizer": "AdamW, linear warm-up, cosine to 0"},
        "final_loss": sum(losses[-50:]) / len(losses[-50:]),
        "held_out": held_out(encoder),
        "text_collapse": encoder.text_collapse(prompts),
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "weights_sha256": encoder.weights_hash,
        "versions": {name: version(name) for name in ("torch", "open_clip_torch", "timm", "scikit-learn", "numpy")},
        "trained_on": f"{platform.system()} {platform.machine()}, one thread",
        "retrain": f"python -m mcdo.encoders.train --keys {key}",
        "not_for": NOT_FOR,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_text(card), encoding="utf-8")
    return card


def _text(card: dict[str, Any]) -> str:
    test = card["held_out"]
    low, high = test["wilson_95"]
    return f"""# {card["key"]}

One of four tiny encoders that differ only in image tower and loss. {card["tower"]}; trained with `{card["loss"]}`.

- **Data.** {card["data"]}
- **Recipe.** {card["recipe"]["steps"]} steps of {card["recipe"]["batch"]} images with AdamW, seed \
{card["recipe"]["seed"]}; all hyper-parameters are in `card.json`. Retrain: `{card["retrain"]}`.
- **Held-out accuracy.** {test["accuracy"]:.3f} ({test["correct"]} of {test["n"]}, 95 % Wilson interval \
{low:.3f} to {high:.3f}), zero-shot with "{test["template"]}".
- **Not for.** {card["not_for"]}
- **Loading.** `mcdo.load_encoder("{card["key"]}")`, or `local-dir:` with this folder. Plain open_clip needs \
`import mcdo.encoders.towers` first where the tower is timm's, because its size is registered there.
"""
