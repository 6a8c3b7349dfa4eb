"""The study as jobs of a cluster, through submitit: an array to extract, an array to train, one job to collect.

Each stage waits for the one before it: Slurm by a dependency, a machine without it by waiting here. Jobs hold names and
numbers only; everything large is read from the study's folder, which must be on a disk that all machines share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.errors import McdoError, nearest
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.registry import find_backbone
from mcdo.studies.backbones.runs import tasks_of
from mcdo.studies.backbones.steps import extract_shard, train_some
from mcdo.studies.backbones.study import collect

if TYPE_CHECKING:
    import submitit

CLUSTERS = ("slurm", "local", "debug")


@dataclass(frozen=True)
class Stage:
    """One submission: ``function`` with each of ``arguments``, all at once, after the stage before."""

    name: str
    function: Callable[..., object]
    arguments: tuple[tuple[Any, ...], ...]
    after: str | None = None


def stages(config: BackbonesConfig, root: Path, device: str = "cpu") -> list[Stage]:
    """The three stages: backbones x shards, backbones x (folds x seeds), and the table."""
    tasks = tasks_of(load_plants(config.plants).groups, config)
    for backbone in config.backbones:
        find_backbone(backbone)  # an unknown name ends here, and not in a queue
    parts = [tuple(tasks[i : i + config.tasks_per_job]) for i in range(0, len(tasks), config.tasks_per_job)]
    numbers = range(1, config.shards + 1)
    shards = [(config, root, backbone, number, device) for backbone in config.backbones for number in numbers]
    training = [(config, root, backbone, part) for backbone in config.backbones for part in parts]
    return [
        Stage("extract", extract_shard, tuple(shards)),
        Stage("train", train_some, tuple(training), "extract"),
        Stage("collect", _collected, ((config, root),), "train"),
    ]


def _collected(config: BackbonesConfig, root: Path) -> str:
    collect(config, root)  # the table stays on disk: what a job returns travels through a pickle
    return str(root / "table.md")


def describe(planned: Sequence[Stage], cluster: str, parameters: Mapping[str, Any]) -> str:
    """What would be submitted, for people."""
    lines = [f"cluster: {cluster}, {', '.join(f'{k}={v}' for k, v in parameters.items()) or 'its own defaults'}"]
    for stage in planned:
        lines.append(f"{stage.name}: {len(stage.arguments)} jobs, after {stage.after or 'nothing'}")
        first, last = stage.arguments[0], stage.arguments[-1]
        lines += [f"  {_call(stage, first)}", *([f"  … {_call(stage, last)}"] if len(stage.arguments) > 1 else [])]
    return "\n".join(lines)


def _call(stage: Stage, arguments: tuple[Any, ...]) -> str:
    named = [_brief(each) for each in arguments[2:]]
    return f"{stage.function.__name__.strip('_')}({', '.join(named)})"


def _brief(argument: Any) -> str:
    if isinstance(argument, tuple):
        return f"[{', '.join(f'seed {task.seed} without {task.group}' for task in argument)}]"
    return str(argument)


def submit(
    planned: Sequence[Stage], root: Path, cluster: str, parameters: Mapping[str, Any] | None = None
) -> dict[str, list[str]]:
    """Submit the stages; returns the ids of their jobs. ``local`` and ``debug`` come back when all is done.

    ``parameters`` are submitit's, such as ``timeout_min`` or ``slurm_partition``.

    Raises:
        McdoError: for an unknown cluster or parameter, no Slurm where it is asked for, or a job that failed.

    """
    if cluster not in CLUSTERS:
        raise McdoError(f"there is no cluster {cluster!r}; the nearest: {nearest(cluster, CLUSTERS)}")
    ids: dict[str, list[str]] = {}
    for stage in planned:
        executor = _executor(root, cluster, stage, ids, parameters or {})
        jobs = executor.map_array(stage.function, *zip(*stage.arguments, strict=True))
        ids[stage.name] = [job.job_id for job in jobs]
        if cluster != "slurm":
            _wait(stage, jobs)
    return ids


def _executor(
    root: Path, cluster: str, stage: Stage, ids: Mapping[str, list[str]], parameters: Mapping[str, Any]
) -> submitit.AutoExecutor:
    import submitit

    waits: dict[str, Any] = {}
    if cluster == "slurm" and stage.after is not None:
        array = ids[stage.after][0].split("_")[0]  # the jobs of an array are ARRAY_0, ARRAY_1, …
        waits = {"dependency": f"afterok:{array}", "kill-on-invalid-dep": "yes"}
    given = dict(parameters)
    extra = {**given.pop("slurm_additional_parameters", {}), **waits}
    try:
        executor = submitit.AutoExecutor(folder=root / "jobs" / "%j", cluster=cluster)
        executor.update_parameters(
            name=f"backbones-{stage.name}", **given, **({"slurm_additional_parameters": extra} if extra else {})
        )
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise McdoError(
            f"submitit: {error}. Without Slurm, --cluster=local or debug runs the same jobs here"
        ) from error
    return executor


def _wait(stage: Stage, jobs: Sequence[submitit.Job[Any]]) -> None:
    for number, job in enumerate(jobs):
        error = job.exception()  # and not result(), which opens a debugger when a job of "debug" fails
        if error is not None:
            raise McdoError(
                f"job {number} of {stage.name} failed ({_call(stage, stage.arguments[number])}): {error}"
            ) from error
