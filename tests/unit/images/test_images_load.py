"""What a source holds of each class, by each kind of source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mcdo.images import load_images
from mcdo.images.load import class_sizes


def test_class_sizes_are_those_of_all_images(tmp_path: Path) -> None:
    for name, count in {"cat": 3, "dog": 1}.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 60 * count)).save(tmp_path / name / f"{i}.png")
    found, labels = class_sizes(str(tmp_path)), load_images(f"folder:{tmp_path}").labels
    assert found is not None
    assert labels is not None
    assert found.tolist() == [3, 1]
    assert found.tolist() == np.bincount(labels).tolist()
    digits = class_sizes("digits")
    assert digits is not None
    assert digits.tolist() == [60] * 10


def test_images_that_nobody_labelled_have_no_class_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert class_sizes(f"folder:{tmp_path}") is None
