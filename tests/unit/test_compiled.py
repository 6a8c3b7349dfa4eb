from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mcdo
from mcdo.compiled import compiled, cores, in_parts, threads
from mcdo.stats.resampling import multiplicities, rank_covariance

PACKAGE = Path(mcdo.__file__).parent


def double(x: float) -> float:
    return 2 * x


def test_a_compiled_function_is_the_function(tmp_path: Path) -> None:
    assert compiled()(double)(1.5) == 3


def test_no_place_for_the_machine_code_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    def none(self: object, function: object) -> None:
        raise RuntimeError("cannot cache function: no locator available for file")

    monkeypatch.setattr(caching.FunctionCache, "__init__", none)
    assert compiled(fastmath=True)(double)(2.0) == 4


def test_machine_code_that_cannot_be_written_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    tried = []

    def full(self: object, signature: object, code: object) -> None:
        tried.append(signature)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.FunctionCache, "save_overload", full)
    assert compiled()(double)(3) == 6  # of a type that no test writes
    assert tried


@pytest.mark.slow
def test_a_read_only_installation_without_a_home_measures_the_same(tmp_path: Path) -> None:
    """The package is on a path that cannot be written, also by root: its ``__pycache__`` is a file."""
    installed = tmp_path / "mcdo"
    shutil.copytree(PACKAGE, installed, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (installed, *(path for path in installed.rglob("*") if path.is_dir())):
        (folder / "__pycache__").touch()
    program = (
        "import mcdo\ne, i = mcdo.load_encoder('clip_tiny'), mcdo.load_images('digits', n=3)\n"
        "print(mcdo.__file__, *mcdo.monte_carlo(e, i, mcdo.Dropout(.01), 4, 1).scores('trace_pre').ravel().tolist())"
    )
    nowhere = str(tmp_path / "mcdo" / "__init__.py" / "home")
    environment = {**os.environ, "HOME": nowhere, "XDG_CACHE_HOME": nowhere, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    place, *scores = done.stdout.split()
    assert Path(place).parent == installed
    here = mcdo.monte_carlo(mcdo.load_encoder("clip_tiny"), mcdo.load_images("digits", n=3), mcdo.Dropout(0.01), 4, 1)
    assert np.allclose(list(map(float, scores)), here.scores("trace_pre").ravel(), rtol=1e-5)


@pytest.mark.parametrize(("asked", "found"), [("3", 3), ("", cores()), ("0", cores()), ("many", cores())])
def test_threads_are_as_many_as_torch_takes(asked: str, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads() == found


@pytest.mark.parametrize("asked", ["1", "4"])
@pytest.mark.parametrize("count", [1, 3, 4, 10])
def test_parts_are_the_whole_and_an_error_in_one_is_raised(
    count: int, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    done = np.zeros(count)

    def add(part: slice) -> None:
        done[part] += 1

    in_parts(add, count)
    assert (done == 1).all()
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda part: 1 // (part.start - part.start), count)


def test_rank_correlations_have_the_same_bits_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 40, size=(3, 300)).astype(np.float64)
    weights = multiplicities(300, 701, 0)
    found = []
    for asked in ("1", "2", "7"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        found.append(rank_covariance(rows, weights))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    ranked = np.stack([rank_covariance(rows, each[None])[0] for each in weights[:5]])
    assert np.array_equal(ranked, found[0][:5]), "and as one resample at a time, on none beside this"
