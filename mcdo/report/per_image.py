"""Scores by image, as the experiments' arrays hold them: which array of a report is a score of which images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.report.files import read_npz
from mcdo.report.results import Reported, Reports

IDS = ("paths", "prompts")
"""Arrays that name the images, or what was shown in their place."""

_REMEDY = "run the experiment again"


@dataclass(frozen=True, eq=False)
class PerImage:
    """One score of one experiment about one subject.

    Attributes:
        experiment: folder of the experiment.
        subject: usually a model.
        file: the arrays' file, without its ending and without the subject's name.
        score: its name there.
        ids: of the images, [N].
        origins: the units that were sampled, [N]; the ids where the file does not say.
        values: [K, N], K = 1 for what was measured once.

    """

    experiment: str
    subject: str
    file: str
    score: str
    ids: NDArray[np.str_]
    origins: NDArray[np.str_]
    values: NDArray[np.float64]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies it among the reports."""
        return self.experiment, self.subject, self.file, self.score


def per_image(reports: Reports) -> list[PerImage]:
    """Every score by image in a folder of reports."""
    return [score for each in reports.experiments for score in _of(each, reports.folder)]


def _of(reported: Reported, folder: Path) -> Iterator[PerImage]:
    for name in reported.summary["files"].get("arrays", ()):
        path = reported.held(folder, name)
        if path is None:
            continue
        arrays = read_npz(path, _REMEDY)
        for named in {*IDS, "origins"} & arrays.keys():
            if arrays[named].dtype.kind not in "Uiu" or arrays[named].ndim != 1:
                raise McdoError(f"{path}: its {named} are no names; {_REMEDY}")
        file = re.sub(re.escape(reported.subject), "", path.stem).strip("_-/") or path.stem
        yield from _scores(reported, file, arrays)


def _scores(reported: Reported, file: str, arrays: dict[str, NDArray[np.generic]]) -> Iterator[PerImage]:
    ids = next((arrays[name] for name in IDS if name in arrays), None)
    if ids is None or len(set(ids.tolist())) != len(ids):
        return
    origins = arrays.get("origins", ids)
    if len(origins) != len(ids):
        raise McdoError(f"{reported.file}: {file} has {len(origins)} origins of {len(ids)} images; {_REMEDY}")
    for name, values in arrays.items():
        numeric = values.dtype.kind == "f" or (values.dtype.kind in "iu" and values.ndim == 2)
        if numeric and values.ndim in (1, 2) and values.shape[-1] == len(ids):
            rows = np.atleast_2d(values).astype(np.float64)
            yield PerImage(reported.key[0], reported.subject, file, name, ids.astype(str), origins.astype(str), rows)
