"""DINOv2 ViT-B/14 through transformers, as the published study loads it: 224 px, the class token of the last layer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.weights import cached, loading_failed, missing
from mcdo.errors import McdoError

PREPROCESSING = "shortest side 256 px, bicubic, centre crop 224 px, mean and std of ImageNet"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(repo: str, random: bool, seed: int, device: str) -> tuple[nn.Module, str]:
    """The model in evaluation mode, and the SHA-256 of its weights.

    Raises:
        McdoError: when the weights are not on this disk, or do not fill the model.

    """
    with quiet_libraries():
        model = _untrained(seed) if random else _pretrained(repo)
    model = model.float().eval().requires_grad_(False)
    return model.to(device), _hash(model)


def to_uint8(image: Image.Image) -> Tensor:
    """RGB picture to uint8 [3, 224, 224]."""
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    shown = CenterCrop(224)(Resize(256, InterpolationMode.BICUBIC)(image.convert("RGB")))
    return torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1).contiguous()


def class_token(model: nn.Module, pixels: Tensor) -> Tensor:
    """Of uint8 [B, 3, 224, 224]: float32 [B, D], after the final norm."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (_MEAN, _STD))
    tokens: Tensor = model(pixel_values=(pixels.float() / 255 - mean) / std).last_hidden_state
    return tokens[:, 0]


def _untrained(seed: int) -> Any:
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Dinov2Model(Dinov2Config(image_size=518, patch_size=14))  # 518: the grid of its position embedding


def _pretrained(repo: str) -> Any:
    config = cached(repo, "config.json")
    if config is None or not (config.parent / "model.safetensors").is_file():
        raise missing("dinov2", "configuration and weights", repo)
    return from_folder(config.parent)


def from_folder(folder: Path) -> Any:
    """A checkpoint's folder, config.json and model.safetensors; every parameter must be filled."""
    from transformers import Dinov2Model

    try:
        model, report = Dinov2Model.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise loading_failed("dinov2", folder, error) from error
    unfilled = [*report["missing_keys"], *(str(each) for each in report["mismatched_keys"])]
    if unfilled:
        raise McdoError(f"dinov2: {folder} leaves {len(unfilled)} parameters unfilled, the first {sorted(unfilled)[0]}")
    return model


def _hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
