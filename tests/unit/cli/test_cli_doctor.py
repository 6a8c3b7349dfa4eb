from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from mcdo.cli import doctor, main


def diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    places = [f"--store={tmp_path / 'store'}", f"--reports={tmp_path / 'reports'}"]
    status = main(["doctor", *places, *arguments])
    lines = capsys.readouterr().out.splitlines()
    return status, {line.split()[0]: line for line in lines}


def state(line: str) -> str:
    return line.split()[1]


def test_a_whole_place_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = diagnosed(tmp_path, capsys, "--models=clip_tiny", "--device=cpu")
    assert status == 0
    assert {state(found[what]) for what in ("python", "torch", "cpu", "clip_tiny", "images", "store", "reports")} == {
        "ok"
    }
    assert "600 originals" in found["images"]


def test_what_is_wanted_and_not_there_is_wrong_and_names_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "reports").write_text("a file where a folder should be")
    status, found = diagnosed(tmp_path, capsys, "--models=clip_b32", "--images=folder:/no/such/place", "--device=gpu")
    assert status == 1
    for what in ("clip_b32", "images", "reports", "--device"):
        assert state(found[what]) == "wrong", what
    assert "hf download timm/vit_base_patch32_clip_224.openai" in found["clip_b32"]
    assert state(found["clip_l14"]) == "absent", "nobody asked for it"


def test_a_version_below_the_bound_is_wrong_and_another_than_tested_is_said() -> None:
    old = doctor._version("numpy", ">=999", {})
    assert (old.state, 'pip install "numpy>=999"' in old.said) == ("wrong", True)
    other = doctor._version("numpy", ">=1", {"numpy": "1.0"})
    assert (other.state, "tested with 1.0" in other.said) == ("ok", True)
    absent = doctor._version("no-such-package", ">=1", {})
    assert absent.state == "wrong"


def test_an_environment_that_does_not_fit_is_told_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(key: str, state: str) -> None:
        raise ImportError("numpy>=1.17 is required, but found numpy==1.0\nTry this")

    def version(name: str) -> str:
        return "1.0" if name == "numpy" else real(name)

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr("mcdo.harness.preflight.weights", unfit)
    status, found = diagnosed(tmp_path, capsys)
    assert status == 1
    assert 'pip install "numpy>=' in found["numpy"]
    assert "ImportError: numpy>=1.17 is required, but found numpy==1.0): mend what is wrong" in found["weights"]
    assert state(found["images"]) == "ok", "what comes later is looked at as well"


@pytest.mark.parametrize("ok", [True, False])
def test_the_check_of_the_device_decides_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ok: bool
) -> None:
    from types import SimpleNamespace

    from mcdo.experiments.cost.device import check
    from mcdo.experiments.cost.device.setup import TOY

    asked = []

    def run(*arguments: object) -> object:
        asked.append(arguments[:3])
        return SimpleNamespace(ok=ok)

    monkeypatch.setattr(check, "run", run)
    out = tmp_path / "device"
    assert diagnosed(tmp_path, capsys, "--device=cpu", f"--check={out}")[0] == int(not ok)
    assert asked == [("cpu", TOY, out)]
    assert diagnosed(tmp_path, capsys, "--device=gpu", f"--check={out}")[0] == 1
    assert len(asked) == 1, "what is wrong already is mended first"
