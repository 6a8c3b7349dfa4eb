"""Images seen through noise: Gaussian, grey, keyed by image id, so an image has one noise whatever set it is in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mcdo.images import ImageSet, Source
from mcdo.names import as_bytes


@dataclass(frozen=True)
class NoisySource:
    """The images of another source, with noise of standard deviation ``sigma`` in grey levels added, then clipped."""

    inner: Source
    sigma: float

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """RGB, the same noise in all three channels."""
        image, _ = self.inner.load(image_id)
        key = int.from_bytes(hashlib.sha256(as_bytes(f"subtasks noise {image_id}")).digest()[:16], "big")
        clean = np.asarray(image, dtype=np.float64)
        noise = self.sigma * np.random.default_rng(key).standard_normal(clean.shape[:2])
        noisy = np.clip(np.rint(clean + noise[..., None]), 0, 255).astype(np.uint8)
        return Image.fromarray(noisy), self.content_hash(image_id)

    def content_hash(self, image_id: str) -> str:
        """Over the clean image's hash and the recipe."""
        recipe = f"{self.inner.content_hash(image_id)} noise 1 {self.sigma!r}"
        return hashlib.sha256(recipe.encode()).hexdigest()


def through_noise(images: ImageSet, sigma: float) -> ImageSet:
    """The same images, ids and labels through noise; the set itself where ``sigma`` is 0."""
    if sigma == 0:
        return images
    source = NoisySource(images.source, sigma)
    hashes = tuple(source.content_hash(each) for each in images.ids)
    return replace(images, name=f"{images.name} through noise {sigma:g}", source=source, content_hashes=hashes)
