"""Ten thousand images on ViT-B/32 stay below 4 GB, shown in a process of its own.

Everything whose size follows from the number of images is there for real: 10 000 pixel arrays prepared from pictures,
all scores of 10 trials at three T, the parts of an earlier process, and the whole result as it is written and read.
Only the passes are few: 9 996 of the images are restored, and the last four are measured with T = 2, 3, 4 in place of
4, 16, 64. What a forward pass takes follows from its rows, which are those of a full run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import hashlib, json, resource, sys
import numpy as np
from PIL import Image
from mcdo import Dropout, ImageSet, load_encoder, monte_carlo
from mcdo.estimators import MonteCarloConfig
from mcdo.estimators.measurement import Measurement
from mcdo.estimators.monte_carlo import run_key
from mcdo.images import Pixels
from mcdo.store import Store

N, PASSES, TRIALS = int(sys.argv[2]), (2, 3, 4), 10
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Noise:
    "Images of 224 px that differ."

    def load(self, name):
        grey = np.random.default_rng(int(name)).integers(0, 256, (7, 7), dtype=np.uint8)
        return Image.fromarray(grey).resize((224, 224)).convert("RGB"), self.content_hash(name)

    def content_hash(self, name):
        return hashlib.sha256(name.encode()).hexdigest()


source, ids = Noise(), tuple(map(str, range(N)))
images = ImageSet("noise", ids, None, (), 0, source, tuple(map(source.content_hash, ids)))
encoder = load_encoder("clip_b32", weights="random")
loaded = peak()
store, config = Store(sys.argv[1]), MonteCarloConfig(Dropout(), PASSES, TRIALS, 42, PASSES)
# What an earlier process left: all but the last four images, with the arrays of a real run.
first = monte_carlo(encoder, images.select([0]), Dropout(), PASSES, TRIALS, progress=False)
columns = np.arange(N - 4)
part = {n: np.repeat(a, N - 4, 0 if n == "features" else 1) for n, a in first.arrays().items()}
store.unfinished(run_key(encoder, images, config)).add({"columns": columns, **part}, {})
del part
begun, block = [], Measurement._images
Measurement._images = lambda self, tower, *ends: (begun.append(ends), block(self, tower, *ends))
run = monte_carlo(encoder, images, Dropout(), PASSES, TRIALS, store=store, progress=False)
again = monte_carlo(encoder, images, Dropout(), PASSES, TRIALS, store=store, progress=False)
assert [i for ends in begun for i in range(*ends)] == [*range(N - 4, N)], begun
assert np.array_equal(run.scores("trace_pre"), again.scores("trace_pre"))
assert not np.isnan(run.scores("trace_pre")).any()
stored = sum(path.stat().st_size for path in store.root.rglob("*.safetensors"))
print(json.dumps({"loaded": loaded, "peak": peak(), "pixels": N * 3 * 224**2, "stored": stored}))
"""


@pytest.mark.slow
def test_ten_thousand_images_on_a_large_tower_stay_below_four_gigabytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), "10000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bytes_of = json.loads(done.stdout)
    said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in bytes_of.items())
    print(said)
    assert bytes_of["peak"] < 4e9, said
    # The pixels are there once, as bytes: neither a copy nor floats of them.
    assert bytes_of["peak"] - bytes_of["loaded"] < 1.5 * bytes_of["pixels"], said
