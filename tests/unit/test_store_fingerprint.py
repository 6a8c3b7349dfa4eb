from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcdo.store.fingerprint import EXEMPT, _kept, _modules, code_fingerprint, code_of, measuring_code

SOURCE = '''"""What it is for."""

LIMIT = 3
"""Of something."""

def double(x: int) -> int:
    """Twice x."""
    return 2 * x  # by hand


def small(x: int) -> bool:
    return x in {1, 2}
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # by hand", "  # another remark"),
        ("What it is for.", "Something else."),
        ("Of something.", "Of anything."),
        ("Twice x.", "Two times x."),
        ("LIMIT = 3\n", "LIMIT  =  (3)\n\n\n"),
    ],
    ids=["comment", "module", "attribute", "function", "layout"],
)
def test_what_changes_no_number_changes_no_key(old: str, new: str) -> None:
    assert old in SOURCE
    assert code_of(SOURCE.replace(old, new)) == code_of(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("2 * x", "3 * x"), ("double", "twice")],
    ids=["constant", "code", "name"],
)
def test_what_may_change_a_number_changes_the_key(old: str, new: str) -> None:
    assert code_of(SOURCE.replace(old, new)) != code_of(SOURCE)


def test_a_module_of_a_plug_in_is_part_of_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plug_in_of_a_test.py").write_text(SOURCE)
    before = code_fingerprint("plug_in_of_a_test", "mcdo.errors")
    assert code_fingerprint("mcdo.errors", "plug_in_of_a_test") == before
    (tmp_path / "plug_in_of_a_test.py").write_text(SOURCE.replace("3", "4"))
    assert code_fingerprint("plug_in_of_a_test", "mcdo.errors") != before
    assert "plug_in_of_a_test" not in sys.modules, "nothing is run to be fingerprinted"


def test_the_measuring_rooms_are_whole_but_for_what_is_exempt_by_name() -> None:
    every = {name for room in ("mcdo.perturbation", "mcdo.estimators") for name in _modules(room)}
    assert {"mcdo.perturbation.masks", "mcdo.estimators.moments", "mcdo.estimators.measurement"} <= every
    assert not every & EXEMPT
    for name in EXEMPT:
        code_fingerprint(name)  # a name that is gone would exempt nothing
    assert measuring_code() != measuring_code("mcdo.harness.requests")


def test_a_package_stands_for_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package_of_a_test").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "package_of_a_test" / f"{name}.py").write_text(SOURCE)
    before = measuring_code("package_of_a_test")
    (tmp_path / "package_of_a_test" / "inner.py").write_text(SOURCE.replace("3", "4"))
    measuring_code.cache_clear()
    assert measuring_code("package_of_a_test") != before
    measuring_code.cache_clear()


def test_what_python_keeps_compiled_is_of_this_source_or_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "kept_of_a_test.py"
    file.write_text(SOURCE)
    known = code_fingerprint("kept_of_a_test")
    (kept,) = tmp_path.rglob("*.pyc")

    def found() -> str:
        _kept.cache_clear()
        return code_fingerprint("kept_of_a_test")

    written, stat = kept.read_bytes(), file.stat()
    assert found() == known
    for damaged in (written[:40], b"", b"\0" * 64):
        kept.write_bytes(damaged)
        assert found() == known
    kept.write_bytes(written)
    file.write_text(SOURCE.replace("3", "4"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found() != known
    kept.unlink()
    kept.mkdir()  # no place to write to
    file.write_text(SOURCE)
    assert found() == known
