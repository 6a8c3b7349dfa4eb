"""Images: what is shown to an encoder, with ids, labels, class names and content hashes that stay put.

An :class:`ImageSet` is loaded with :func:`load_images`, checked in full before anything is measured, and turned into
device tensors once per encoder with :func:`prepare_pixels`.
"""

from mcdo.images.degradations import degraded
from mcdo.images.image_set import ImageSet, Skipped, Source
from mcdo.images.listing import TooFewImagesError
from mcdo.images.load import load_images, read_manifest
from mcdo.images.pixels import Pixels, prepare_pixels

__all__ = [
    "ImageSet",
    "Pixels",
    "Skipped",
    "Source",
    "TooFewImagesError",
    "degraded",
    "load_images",
    "prepare_pixels",
    "read_manifest",
]
