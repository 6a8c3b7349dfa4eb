"""What is submitted: three stages that wait for one another, and nothing in a dry run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.studies.backbones.__main__ import main
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.jobs import Stage, stages, submit

CONFIG = BackbonesConfig(
    backbones=("mean_colour", "clip_tiny"), baseline="mean_colour", plants="wilting:5", seeds=(1, 2), shards=3
)


def test_the_stages_hold_every_shard_and_every_fold_with_every_seed(tmp_path: Path) -> None:
    extraction, training, collection = stages(CONFIG, tmp_path)
    assert (len(extraction.arguments), len(training.arguments), len(collection.arguments)) == (2 * 3, 2 * 5 * 2, 1)
    assert (extraction.after, training.after, collection.after) == (None, "extract", "train")
    tasks = {(arguments[2], task.seed, task.group) for arguments in training.arguments for task in arguments[3]}
    assert len(tasks) == 20


@pytest.mark.parametrize(("per_job", "jobs"), [(1, 20), (3, 8), (100, 2)])
def test_tasks_per_job_are_bundled_without_loss(tmp_path: Path, per_job: int, jobs: int) -> None:
    training = stages(replace(CONFIG, tasks_per_job=per_job), tmp_path)[1]
    assert len(training.arguments) == jobs
    assert sum(len(arguments[3]) for arguments in training.arguments) == 20


def test_the_published_study_is_528_trainings(tmp_path: Path) -> None:
    assert len(stages(BackbonesConfig(), tmp_path)[1].arguments) == 4 * 44 * 3


def test_an_unknown_backbone_does_not_reach_the_queue(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="unknown backbone 'clip_tinny'"):
        stages(replace(CONFIG, backbones=("mean_colour", "clip_tinny")), tmp_path)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    asked = ["jobs", "--config=quick", f"--root={root}", "--dry-run", "--set=slurm_partition=gpusmall"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    for line in (
        "cluster: slurm, slurm_partition=gpusmall",
        "extract: 2 jobs, after nothing",
        "train: 32 jobs, after extract",
        "collect: 1 jobs, after train",
        "train_some(mean_colour, [seed 42 without accession_00])",
    ):
        assert line in printed
    assert not root.exists()


def _slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands with Slurm's names: sbatch counts up and prints an id as the real one does."""
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\nn=$(ls {folder} | grep -c seen)\ncp "$1" {folder}/seen-$n\n'
        'echo "Submitted batch job $((100 + n))"\n'
    )
    (folder / "srun").write_text("#!/bin/sh\n")
    for name in ("sbatch", "srun"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_on_slurm_each_stage_is_an_array_that_depends_on_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _slurm(tmp_path / "bin", monkeypatch)
    ids = submit(stages(CONFIG, tmp_path), tmp_path, "slurm", {"timeout_min": 60, "slurm_partition": "gpusmall"})
    assert ids["extract"] == [f"100_{i}" for i in range(6)]
    assert (len(ids["train"]), ids["collect"]) == (20, ["102"])
    first, second, third = ((tmp_path / "bin" / f"seen-{i}").read_text() for i in range(3))
    assert "#SBATCH --array=0-5" in first
    assert "--dependency" not in first
    assert "#SBATCH --array=0-19" in second
    assert "#SBATCH --dependency=afterok:100" in second
    assert "#SBATCH --dependency=afterok:101" in third
    assert "#SBATCH --array" not in third
    for text in (first, second, third):
        assert "#SBATCH --partition=gpusmall" in text
        assert "#SBATCH --time=60" in text
    assert "#SBATCH --kill-on-invalid-dep=yes" in third


def test_without_slurm_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(McdoError, match=r"srun.*Without Slurm"):
        submit(stages(CONFIG, tmp_path), tmp_path, "slurm")


def test_unknown_clusters_and_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="no cluster 'slrum'; the nearest: slurm"):
        submit(stages(CONFIG, tmp_path), tmp_path, "slrum")
    with pytest.raises(McdoError, match=r"submitit: .*colour"):
        submit(stages(CONFIG, tmp_path), tmp_path, "debug", {"colour": "red"})


def _fails(_: object, __: object, what: str) -> None:
    raise ValueError(f"no {what}")


def test_a_failed_job_ends_the_submission_with_its_name(tmp_path: Path) -> None:
    later = Stage("later", _fails, ((None, None, "never reached"),), "sooner")
    with pytest.raises(McdoError, match=r"job 0 of sooner failed \(fails\(disk\)\): no disk"):
        submit([Stage("sooner", _fails, ((None, None, "disk"),)), later], tmp_path, "debug")


def test_a_user_error_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--config=quick", f"--root={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["jobs", "--dry-run", "--set=nonsense"]) == 2
    assert "give KEY=VALUE" in capsys.readouterr().err
    assert main(["extract", "--shard=2"]) == 2
    assert "give I/N" in capsys.readouterr().err


def test_the_configuration_is_printed_as_yaml_that_overlays_to_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from mcdo.studies.backbones.config import load_config

    assert main(["config", "--config=embedded"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(printed) == load_config("embedded")
