"""Degradations: families of damage in graded severities, done to the pictures themselves before any resize.

``degraded(images, "blur:5")`` is the set with every picture blurred by a Gaussian of 5 of its own pixels. A level with
a percent sign is a share of the picture's shorter side, so ``"blur:4%"`` is the same damage to a small picture and to a
large one. Published radii and factors are native pixels of photographs of about 500 x 375; :func:`graded` keeps them
for pictures of such sizes and gives their counterparts for small ones.

A degraded image has an id and a content hash of its own, and the mask id and origin of its clean image: both are seen
under the same random masks (common random numbers), and are one sampled unit. What is random in a degradation follows
from the image's id alone, and is nested over levels: the noise of a higher level is the same pattern, louder, and the
black square grows where it stands.

Severity 0 is the clean image. It is the clean *set*: no degradation makes a second copy of it.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from mcdo.errors import McdoError, nearest
from mcdo.images.image_set import ImageSet, Source
from mcdo.names import as_bytes

# Part of every content hash: to be changed with anything below that changes a pixel.
_RECIPE = "degradation 1"
_SEPARATOR = "::"
SMALL_SIDE = 100
"""Shorter side below which :func:`graded` gives counterparts: a blur of 15 px would leave nothing of a digit."""


@dataclass(frozen=True)
class Family:
    """A kind of damage.

    Attributes:
        usage: for messages.
        unit: of the level, for axes and tables.
        apply: what is done, given the level in native units and numbers drawn from the image's id.
        severity: of a level: grows with the damage, 0 at the clean image.
        allowed: whether a level in native units makes sense for a picture; the clean one does not count.
        in_pixels: whether a level may be given in percent of the shorter side.

    """

    usage: str
    unit: str
    apply: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    severity: Callable[[float], float]
    allowed: Callable[[float], bool]
    in_pixels: bool = False


def _blur(image: Image.Image, radius: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _down(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    small = [max(1, round(side / factor)) for side in image.size]
    bilinear = Image.Resampling.BILINEAR
    return image.resize((small[0], small[1]), bilinear).resize(image.size, bilinear)


def _jpeg(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=round(quality))
    with Image.open(file) as reread:
        return reread.convert("RGB")


def _noise(image: Image.Image, sd: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    noisy = pixels + 255 * sd * rng.standard_normal(pixels.shape)
    return Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8))


def _occlusion(image: Image.Image, area: float, rng: np.random.Generator) -> Image.Image:
    """One black square; where it would not fit into a long picture, a rectangle as high or as wide as that."""
    width, height = image.size
    side = math.sqrt(area * width * height)
    across = min(width, max(1, round(side), round(area * width)))
    down = min(height, max(1, round(area * width * height / across)))
    x, y = rng.random(2)
    left, top = round(x * (width - across)), round(y * (height - down))
    covered = image.copy()
    covered.paste((0, 0, 0), (left, top, left + across, top + down))
    return covered


def _contrast(image: Image.Image, kept: float, _: np.random.Generator) -> Image.Image:
    """Towards the picture's mean grey."""
    return ImageEnhance.Contrast(image).enhance(kept)


FAMILIES: dict[str, Family] = {
    "blur": Family(
        "blur:RADIUS in pixels, or blur:SHARE%", "radius (px)", _blur, float, lambda level: level > 0, in_pixels=True
    ),
    "down": Family(
        "down:FACTOR above 1", "factor", _down, lambda level: level - 1, lambda level: level > 1
    ),
    "jpeg": Family(
        "jpeg:QUALITY from 1 to 99", "100 − quality", _jpeg, lambda level: 100 - level,
        lambda level: 1 <= level <= 99 and level == round(level),
    ),
    "noise": Family(
        "noise:SD as a share of the range, up to 1", "sd (share of range)", _noise, float, lambda level: 0 < level <= 1
    ),
    "occlusion": Family(
        "occlusion:AREA as a share, below 1", "area (share)", _occlusion, float, lambda level: 0 < level < 1
    ),
    "contrast": Family(
        "contrast:KEPT as a share, below 1", "1 − contrast kept", _contrast, lambda level: 1 - level,
        lambda level: 0 < level < 1,
    ),
}  # fmt: skip
"""Families by name; a new one is one entry."""

PUBLISHED = ("blur:5", "blur:15", "down:4", "down:8")
"""The four of the public record, in native pixels of photographs."""
COUNTERPARTS = ("blur:1.33%", "blur:4%", "down:2.4", "down:4.8")
"""The four for small pictures. The blur is the same share of the side (5 and 15 of 375). Down-sampling a photograph by
4 leaves more samples than a small picture has pixels, so its factor is that at the published input, 224 of 375."""

_PHOTOGRAPHS = {
    "blur": ("1", "2", "5", "10", "15"),
    "down": ("2", "4", "8", "16"),
    "jpeg": ("80", "40", "20", "10", "5"),
    "noise": ("0.02", "0.05", "0.1", "0.2", "0.4"),
    "occlusion": ("0.02", "0.05", "0.1", "0.25", "0.5"),
    "contrast": ("0.8", "0.6", "0.4", "0.2", "0.1"),
}
_SMALL = {
    **_PHOTOGRAPHS,
    "blur": ("1.33%", "4%", "7%", "10%", "14%"),
    "down": ("2.4", "3.4", "4.8", "8"),
}


@dataclass(frozen=True)
class Degradation:
    """A family at one level; ``share`` says that the level is a percentage of the shorter side."""

    family: str
    level: float
    share: bool = False

    @classmethod
    def parse(cls, spec: str) -> Degradation:
        """From a specification such as ``"blur:5"``, ``"blur:4%"`` or ``"jpeg:20"``.

        Raises:
            McdoError: for an unknown family, a level that is no number or makes no sense, and the clean image.

        """
        name, _, text = spec.partition(":")
        if name not in FAMILIES:
            raise _unknown(spec, name)
        family, share = FAMILIES[name], text.endswith("%")
        try:
            level = float(text.removesuffix("%"))
        except ValueError:
            level = math.nan
        if not math.isfinite(level) or (share and not family.in_pixels):
            raise McdoError(f"degradation {spec!r}: {text!r} is no level of it; write {family.usage}")
        if family.severity(level) == 0:
            raise McdoError(f"degradation {spec!r} is the clean image; use the clean set, which must not stand twice")
        if not family.allowed(level) or (share and level > 100):
            raise McdoError(f"degradation {spec!r}: {text} is out of range; write {family.usage}")
        return cls(name, level, share)

    @property
    def spec(self) -> str:
        """The specification, in one spelling."""
        return f"{self.family}:{self.level:g}{'%' if self.share else ''}"

    def native(self, size: tuple[int, int]) -> float:
        """The level in native units for a picture of ``size`` (width, height)."""
        return self.level / 100 * min(size) if self.share else self.level

    def severity(self, size: tuple[int, int]) -> float:
        """Grows with the damage, 0 at the clean image: native radius, factor − 1, 100 − quality, sd, area,
        1 − contrast.
        """
        return FAMILIES[self.family].severity(self.native(size))

    def severity_at_input(self, size: tuple[int, int], resolution: int) -> float:
        """The severity once the shorter side is resized to ``resolution`` pixels, with s = resolution / shorter side.

        A radius and a factor shrink by s; a factor that leaves more samples than the input has does no damage there
        (0). Noise is averaged over 1/s² pixels where s < 1, so its sd shrinks by s (a bicubic filter leaves a fifth
        less). Quality, area and contrast stay; the blocks of a JPEG are 8 s input pixels wide.
        """
        scale, native = resolution / min(size), self.native(size)
        if self.family == "down":
            return max(0.0, native * scale - 1)
        if self.family == "blur":
            return native * scale
        return native * min(1.0, scale) if self.family == "noise" else self.severity(size)

    def apply(self, image: Image.Image, image_id: str) -> Image.Image:
        """The damaged picture, same size, mode RGB; what is random in it follows from the family and ``image_id``."""
        digest = hashlib.sha256(as_bytes(f"{_RECIPE} {self.family} {image_id}")).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        return FAMILIES[self.family].apply(image, self.native(image.size), rng)


@dataclass(frozen=True)
class DegradedSource:
    """Pictures of another source, damaged when they are asked for; ids end in ``::`` and the specification."""

    clean: Source
    degradation: Degradation

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """The damaged picture and its content hash."""
        image, found = self.clean.load(self._clean_id(image_id))
        return self.degradation.apply(image, self._clean_id(image_id)), degraded_hash(found, self.degradation)

    def content_hash(self, image_id: str) -> str:
        """The hash of the clean content and the degradation."""
        return degraded_hash(self.clean.content_hash(self._clean_id(image_id)), self.degradation)

    def _clean_id(self, image_id: str) -> str:
        ending = _SEPARATOR + self.degradation.spec
        if not image_id.endswith(ending):
            raise McdoError(f"{image_id} is no image of this degraded set; its ids end in {ending}")
        return image_id.removesuffix(ending)


def _unknown(spec: str, name: str) -> McdoError:
    like = nearest(name, FAMILIES).split(", ")
    return McdoError(f"unknown degradation {spec!r}; the nearest: {'; '.join(FAMILIES[each].usage for each in like)}")


def degraded_hash(clean: str, degradation: Degradation) -> str:
    """Content hash of a degraded image from that of the clean one: sha256 in hexadecimal."""
    return hashlib.sha256(f"{_RECIPE} {degradation.spec} {clean}".encode("ascii")).hexdigest()


def degraded(images: ImageSet, degradation: str | Degradation) -> ImageSet:
    """``images`` under a degradation such as ``"blur:5"``: same order, labels, mask ids and origins, other ids.

    Raises:
        McdoError: for an unknown or impossible degradation, and for severity 0, which is ``images`` itself.

    """
    if not isinstance(degradation, Degradation):
        degradation = Degradation.parse(degradation)
    return replace(
        images,
        name=f"{images.name}{_SEPARATOR}{degradation.spec}",
        ids=tuple(image_id + _SEPARATOR + degradation.spec for image_id in images.ids),
        source=DegradedSource(images.source, degradation),
        content_hashes=tuple(degraded_hash(held, degradation) for held in images.content_hashes),
        mask_ids=images.mask_ids,
        origins=images.origins,
    )


def published(side: int) -> tuple[str, ...]:
    """The four published degradations for pictures with this shorter side, or their counterparts for small ones."""
    return PUBLISHED if side >= SMALL_SIDE else COUNTERPARTS


def graded(family: str, side: int) -> tuple[str, ...]:
    """The levels of a family for pictures with this shorter side, by increasing damage."""
    if family not in FAMILIES:
        raise _unknown(family, family)
    return tuple(f"{family}:{level}" for level in (_PHOTOGRAPHS if side >= SMALL_SIDE else _SMALL)[family])
