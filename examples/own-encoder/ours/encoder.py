"""Our encoder: a small convolutional network that was trained on handwritten digits.

``python -m ours.encoder`` trains it and writes weights.pt, in a few seconds.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import mcdo
from mcdo.images.digits import training_split

WEIGHTS = Path(__file__).with_name("weights.pt")
SHOWN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
FEATURES, DIGITS = 32, 10


def tower() -> nn.Module:
    """Pixels [B, 3, 32, 32] to features [B, 32]."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(16 * 64, 128), nn.GELU(), nn.Linear(128, FEATURES)
    )


def ours(device: str = "cpu", precision: str = "float32") -> mcdo.Encoder:
    """What --models=ours loads."""
    if not WEIGHTS.exists():
        raise mcdo.McdoError(f"{WEIGHTS} is missing: python -m ours.encoder trains it in a few seconds")
    module = tower()
    module.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return mcdo.Encoder.of(module, SHOWN, name="ours", device=device, precision=precision)


def train(epochs: int = 30) -> float:
    """Train tower and head by cross-entropy, keep the tower, and return the share of training digits that are right."""
    torch.manual_seed(0)
    grey, labels = map(torch.from_numpy, training_split())
    pixels = (grey / 255 - 0.5).div(0.5)[:, None].expand(-1, 3, -1, -1)
    module, head = tower(), nn.Linear(FEATURES, DIGITS)
    optimiser = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(head(module(pixels[rows])), labels[rows]).backward()
            optimiser.step()
    torch.save(module.state_dict(), WEIGHTS)
    with torch.no_grad():
        return (head(module(pixels)).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    print(f"{WEIGHTS}: {train():.3f} of the training digits are right")
