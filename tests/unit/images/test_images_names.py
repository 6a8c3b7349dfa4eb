"""Names of files and folders as zip files, file servers and other locales leave them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcdo
from mcdo import McdoError
from mcdo.encoders.spec import MODELS_DIR
from mcdo.images import load_images, read_manifest
from mcdo.perturbation.masks import image_keys
from mcdo.store.upkeep import entries, verified

CAFE, FORET = b"caf\xe9", b"for\xeat"  # Latin-1


def make(root: Path, *classes: bytes) -> Path:
    for number, name in enumerate(classes):
        folder = os.fsencode(root) + b"/" + name
        try:
            os.mkdir(folder)
        except OSError:
            pytest.skip("this file system has no such names")
        for i in range(2):
            with open(folder + b"/" + CAFE + b"%d.png" % i, "wb") as file:
                Image.new("RGB", (8, 8), (40 * number, 90 * i, 7)).save(file, "PNG")
    return root


def test_names_that_are_no_utf8_are_measured_like_any_other(tmp_path: Path) -> None:
    images = load_images(f"folder:{make(tmp_path, b'zero', FORET)}")
    assert len(images) == 4
    assert images.ids[0] == "for\udceat/caf\udce90.png"
    encoder = mcdo.load_encoder("clip_tiny")
    run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.01), passes=2, trials=1, store=tmp_path / "store")
    assert np.isfinite(run.scores("trace_pre")).all()
    again = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.01), passes=2, trials=1, store=tmp_path / "store")
    assert (again.scores("trace_pre") == run.scores("trace_pre")).all()
    images.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == images.fingerprint
    np.savez(tmp_path / "ids.npz", ids=np.array(images.ids))
    assert np.load(tmp_path / "ids.npz")["ids"].tolist() == list(images.ids)


def test_no_tokenizer_is_shown_a_class_name_that_is_no_utf8(tmp_path: Path) -> None:
    images = load_images(f"folder:{make(tmp_path, b'zero', FORET)}")
    with pytest.raises(McdoError, match=r"a for\\xeat.* no UTF-8.*rename the class directory") as caught:
        mcdo.load_encoder("clip_tiny").zero_shot_logits(torch.zeros(1, 48), images.class_names, "a {}")
    str(caught.value).encode()


def test_an_unreadable_file_with_such_a_name_is_named_printably(tmp_path: Path) -> None:
    root = make(tmp_path, b"zero")
    with open(os.fsencode(root) + b"/zero/\x1b[31m" + CAFE + b".png", "wb"):
        pass
    with pytest.raises(McdoError, match=r"zero/\\x1b\[31mcaf\\xe9\.png: the file is empty"):
        load_images(f"folder:{root}")


def test_models_and_stores_lie_in_folders_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "mod\udce8le"
    try:
        shutil.copytree(MODELS_DIR / "clip_tiny", folder)
    except OSError:
        pytest.skip("this file system has no such names")
    encoder, images = mcdo.load_encoder(f"local-dir:{folder}"), load_images("digits", n=3)
    shipped = mcdo.load_encoder("clip_tiny")
    assert encoder.weights_hash == shipped.weights_hash
    assert torch.equal(encoder.tokenize(["a seven"]), shipped.tokenize(["a seven"]))
    store = mcdo.Store(tmp_path / "sto\udce8re")
    run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.01), passes=2, trials=1, store=store)
    again = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.01), passes=2, trials=1, store=store)
    assert (again.scores("trace_pre") == run.scores("trace_pre")).all()
    assert {entry.label["encoder"] for entry in entries(store.root)} == {f"local-dir:{folder}"}
    assert {error for _, error in verified(store.root)} == {None}


LISTING = """
import json, sys
from mcdo.images import load_images
from mcdo.perturbation.masks import image_keys
images = load_images("folder:" + sys.argv[1])
print(sys.getfilesystemencoding())
print(json.dumps([images.ids, images.class_names, images.fingerprint, image_keys(images.mask_ids).tolist()]))
"""


def test_ids_and_masks_are_the_same_where_names_of_files_are_ascii(tmp_path: Path) -> None:
    """Elsewhere Python takes them for UTF-8, as here: also under POSIX, unless it is told not to."""
    root = make(tmp_path, "é".encode(), b"z", FORET, "模型".encode())
    images = load_images(f"folder:{root}")
    here = [[*images.ids], [*images.class_names], images.fingerprint, image_keys(images.mask_ids).tolist()]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", LISTING, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    encoding, there = done.stdout.splitlines()
    if encoding == sys.getfilesystemencoding():
        pytest.skip(f"names of files are {encoding} here under every locale")
    assert json.loads(there) == here
