from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.report import files
from mcdo.report.figures import save_figure
from mcdo.report.files import (
    UnwrittenReportWarning,
    add_to_json,
    check_writable,
    read_npz,
    write_json,
    write_npz,
    written,
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where reports go that cannot be written."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(files, "_fallback", lambda: tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path below which nothing can be written, for root as well."""
    (tmp_path / "file").touch()
    return tmp_path / "file"


def test_a_folder_that_cannot_be_written_is_noticed_before(no_folder: Path, tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "reports")
    assert list((tmp_path / "new" / "reports").iterdir()) == []
    with pytest.raises(McdoError, match=r"reports cannot be written: .*--reports"):
        check_writable(no_folder / "reports")


def test_numbers_outlive_a_folder_that_fails_after_the_measurement(no_folder: Path, elsewhere: Path) -> None:
    from matplotlib.figure import Figure

    folder = no_folder / "phase1" / "exp0" / "clip_tiny"
    with pytest.warns(UnwrittenReportWarning, match=f"exp0_summary.json cannot be written: .* It is {elsewhere}"):
        path = write_json(folder / "exp0_summary.json", {"a": 1})
    assert path == elsewhere / "phase1" / "exp0" / "clip_tiny" / "exp0_summary.json"
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.warns(UnwrittenReportWarning):
        arrays = write_npz(folder / "trials.npz", x=np.arange(3))
    assert np.load(arrays)["x"].tolist() == [0, 1, 2]
    with pytest.warns(UnwrittenReportWarning):
        assert save_figure(Figure(), folder / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.warns(UnwrittenReportWarning):
        add_to_json(folder / "overall.json", "now", "results", "clip_tiny", 1)
    assert json.loads((elsewhere / "phase1/exp0/clip_tiny/overall.json").read_text())["results"] == {"clip_tiny": 1}


def test_a_full_disk_is_one_whatever_a_library_makes_of_it(tmp_path: Path, elsewhere: Path) -> None:
    """Closing a PDF that could not be written, matplotlib raises an AttributeError."""

    def draw(part: Path) -> None:
        try:
            if elsewhere not in part.parents:
                raise OSError(errno.ENOSPC, "No space left on device")
            part.write_text("drawn")
        except OSError:
            raise AttributeError("'Stream' object has no attribute 'pos'")  # noqa: B904  # as a finally does

    with pytest.warns(UnwrittenReportWarning, match="No space left on device"):
        assert written(tmp_path / "a.pdf", draw).read_text() == "drawn"
    with pytest.raises(ZeroDivisionError):  # whose fault is no disk's
        written(tmp_path / "a.pdf", lambda _: 1 // 0)


def test_where_nothing_can_be_written_both_places_are_named(no_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_fallback", lambda: no_folder / "elsewhere")
    with pytest.raises(McdoError, match=r"file/x/a.json cannot be written: .*; nor can .*file/elsewhere"):
        write_json(no_folder / "x" / "a.json", {})


def test_the_place_instead_is_a_folder_of_this_process() -> None:
    files._fallback.cache_clear()
    folder = files._fallback()
    try:
        assert folder == files._fallback()
        assert folder.parent == Path(tempfile.gettempdir())
    finally:
        folder.rmdir()
        files._fallback.cache_clear()


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)

    def torn(part: Path) -> None:
        part.write_text("torn")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        written(tmp_path / "a.json", torn)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def test_a_summary_that_is_none_of_ours_is_replaced(tmp_path: Path) -> None:
    for broken in ("{", "[1]", "\xff"):
        (tmp_path / "s.json").write_text(broken, encoding="latin-1")
        add_to_json(tmp_path / "s.json", "now", "results", "a", 1)
        assert json.loads((tmp_path / "s.json").read_text()) == {"session": "now", "results": {"a": 1}}


def test_summaries_are_filled_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(files, "_SOFT_LOCK_S", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_to_json(tmp_path / "s.json", "now", "results", "a", 1)
        (tmp_path / ".s.json.softlock").touch()  # left by a process that was killed
        add_to_json(tmp_path / "s.json", "now", "results", "b", 2)
    assert json.loads((tmp_path / "s.json").read_text())["results"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("name", ["模型", "$x$ and $\\bad", "caf\udce9", "a\x1b[31m\x00", "$"])
def test_no_name_in_a_figure_costs_it(name: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_title(name)
    axes.plot([1, 2], [1, 100], label=name)
    axes.set_xticks([1, 2], [name, "b"])
    axes.set_yscale("log")
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pytest -W error
        warnings.showwarning = lambda *_, **__: None
        save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_powers_of_ten_stay_formulas(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [1, 100])
    axes.set_yscale("log")
    save_figure(figure, tmp_path / "a.png")
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert labels
    assert all(label.get_parse_math() for label in labels)


def test_a_summary_never_mixes_two_sessions(tmp_path: Path) -> None:
    path = tmp_path / "overall.json"
    add_to_json(path, "first", "results", "a", 1)
    add_to_json(path, "first", "results", "b", 2)
    assert json.loads(path.read_text())["results"] == {"a": 1, "b": 2}
    add_to_json(path, "second", "results", "a", 3)
    assert json.loads(path.read_text()) == {"session": "second", "results": {"a": 3}}


WRITER = """
import sys
from pathlib import Path
from mcdo.report.files import add_to_json
session, model = sys.argv[2:]
add_to_json(Path(sys.argv[1]), session, "results", model, 1)
print("written", flush=True)
sys.stdin.readline()
"""


def test_two_runs_at_once_lose_nothing_and_one_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "overall.json"

    def begin(session: str, model: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(path), session, model]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        return process

    def results() -> dict[str, int]:
        found: dict[str, int] = json.loads(path.read_text())["results"]
        return found

    first = begin("first", "a")
    second = begin("second", "b")
    assert results() == {"a": 1, "b": 1}
    assert json.loads(path.read_text())["others"] == {"results": {"a": "first"}}
    add_to_json(path, "third", "results", "c", 3)
    assert results() == {"a": 1, "b": 1, "c": 3}
    first.communicate("over\n")
    second.kill()
    second.communicate()
    add_to_json(path, "third", "results", "d", 4)
    assert json.loads(path.read_text()) == {"session": "third", "results": {"c": 3, "d": 4}}


@pytest.mark.parametrize("content", ["", "{}", "null", '{"session": "now", "results": null}', '{"results": {"a": 1}}'])
def test_an_earlier_summary_blocks_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(content)
    add_to_json(tmp_path / "s.json", "now", "results", "b", 2)
    assert json.loads((tmp_path / "s.json").read_text()) == {"session": "now", "results": {"b": 2}}


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_arrays_are_written_without_pickles(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", paths=np.array(["a", "bc"]), scores=np.eye(2))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as held:
        assert held["paths"].tolist() == ["a", "bc"]
    with pytest.raises(TypeError, match="pickled"):
        write_npz(tmp_path / "y.npz", paths=np.array(["a", None]))


def npy(head: str, content: bytes = b"") -> bytes:
    padded = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + content


BAD_ARRAYS = {
    "a terabyte": (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }"), "a.npy is no array of"),
    "objects": (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N."), "a.npy is no array of"),
    "half of it": (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", bytes(8)), "a.npy is no array of"),
    "nothing, often": (
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,), }"),
        "a.npy is no array of",
    ),
    "no array": (b"text", "magic|EOF|expected"),
    "a head too deep": (npy("(" * 100), "EOF|parenthes|header"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_are_not_what_they_claim_are_refused_by_name(name: str, tmp_path: Path) -> None:
    content, said = BAD_ARRAYS[name]
    path = tmp_path / "scores.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(McdoError, match=rf"scores\.npz cannot be read .*({said}).*; again"):
        read_npz(path, "again")


@pytest.mark.parametrize("other", ["a.npy", "a"])
def test_two_arrays_of_one_name_are_refused(other: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    one = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", one)
        archive.writestr(other, one)
    with pytest.raises(McdoError, match="several arrays of one name"):
        read_npz(path, "again")


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "scores.npz", a=[[1.0, 2.0]], ids=["x", "y"])
    held = read_npz(path, "again")
    assert held["a"].tolist() == [[1.0, 2.0]]
    assert held["ids"].tolist() == ["x", "y"]
