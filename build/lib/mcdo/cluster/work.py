"""The work: what experiments need measured, in two stages, and measuring it or a share of it.

Some measurements are named only by what others gave (an experiment's ``follow_up``): they are the second stage, which
begins when the first is whole.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from mcdo.cluster.look import look, measured
from mcdo.cluster.shares import Owners, Share, divided
from mcdo.errors import McdoError, NotApplicableError
from mcdo.harness import Experiment, FirstOrder, Images, Inputs, Passes, Request, Runner, StoredArrays, Subject, View
from mcdo.schema import Count, Hash, Record, Size, read_json
from mcdo.store import NotWholeError, Part, Store

Selected = Sequence[tuple[Experiment[Any], Subject]]
PLANS = "plans"
"""Folder of a store: who measures what, for who looks on."""


@dataclass
class Refused:
    """What cannot be measured: why, by what it was; and what is skipped for want of a text tower."""

    errors: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, error: McdoError) -> None:
        """Remember an error of ``what``."""
        (self.skipped if isinstance(error, NotApplicableError) else self.errors)[what] = str(error)


class Task(Record, frozen=True):
    """A measurement of a plan on file.

    Attributes:
        what: for people.
        key: in the store.
        ends: one past the last image of each share, where the measurement is divided.
        owner: the share that measures it, where it is not.
        served: it was whole when the plan was written, perhaps as part of a larger one.
        passes: of one image, that it takes in all.

    """

    what: str
    key: Hash
    ends: tuple[Count, ...] = ()
    owner: Count = 0
    served: bool = False
    passes: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if any(after < before for before, after in pairwise(self.ends)):
            raise ValueError("ends must ascend")

    def missing(self, store: Store) -> dict[int, int]:
        """Images that are not measured, by share; of what is not divided, 1."""
        if self.served or store.path(self.key).exists():
            return {}
        if not self.ends:
            return {self.owner: 1}
        left, begins = ~measured(store, self.key, self.ends[-1]), [0, *self.ends[:-1]]
        found = {i: int(left[a:b].sum()) for i, (a, b) in enumerate(zip(begins, self.ends, strict=True))}
        return {share: count for share, count in found.items() if count} or {0: 0}  # parts that nobody has put together


class Plan(Record, frozen=True):
    """Who measures what; ``final`` where nothing follows."""

    shares: Size
    tasks: list[Task]
    final: bool
    errors: dict[str, str]

    @staticmethod
    def read(path: Path) -> Plan:
        """Raises McdoError if it is not there, or is none."""
        found: Plan = read_json(path, Plan, "run mcdo measure with the same arguments once more")
        return found

    def done(self, store: Store) -> tuple[int, int]:
        """Passes of whole images that are measured, and those that are to be."""
        done = 0
        for task in self.tasks:
            left = sum(task.missing(store).values()) / (task.ends[-1] if task.ends else 1)
            done += round(task.passes * (1 - left))
        return done, sum(task.passes for task in self.tasks)

    def missing(self, store: Store) -> dict[int, int]:
        """Images that are not measured, by share."""
        found: dict[int, int] = {}
        for task in self.tasks:
            for share, count in task.missing(store).items():
                found[share] = found.get(share, 0) + count
        return found


class Work:
    """What selected experiments need measured.

    Args:
        runner: of a session whose store is a folder.
        selected: experiments and their subjects.

    Attributes:
        refused: what cannot be measured.
        whole: planned requests that need no more passes.
        keys: in the store, of those that can be measured.

    """

    def __init__(self, runner: Runner, selected: Selected) -> None:
        self.runner, self.session, self.selected = runner, runner.session, selected
        self.refused = Refused()
        self.whole: set[Request[Any]] = set()
        self.keys: dict[Request[Any], str] = {}
        self._followed = False
        self._wanted: list[tuple[str, list[Request[Any]]]] = []

    def first(self) -> tuple[Request[Any], ...]:
        """Plan what can be named beforehand."""
        self._plan(lambda experiment, subject: experiment.requests(View(self.session, subject)))
        return self._looked_up()

    def later(self) -> tuple[Request[Any], ...]:
        """Plan what follows, when the first stage is whole."""
        self._followed = True
        self._plan(self._following)
        return self._looked_up()

    @property
    def follows(self) -> list[str]:
        """Names of experiments that have a second stage, which is not planned yet."""
        every = (each for each, _ in self.selected if type(each).follow_up is not Experiment.follow_up)
        return [] if self._followed else list(dict.fromkeys(each.name for each in every))

    def _plan(self, named: Callable[[Experiment[Any], Subject], Iterable[Request[Any]]]) -> None:
        for experiment, subject in self.selected:
            about = f"{experiment.name} of {subject.name}"
            if about not in self.refused.errors:
                try:
                    wanted = list(named(experiment, subject))
                    self.session.plan(wanted)
                    self._wanted.append((experiment.name, wanted))
                except McdoError as error:
                    self.refused.add(about, error)

    def _following(self, experiment: Experiment[Any], subject: Subject) -> Iterable[Request[Any]]:
        if type(experiment).follow_up is Experiment.follow_up:
            return ()
        first = tuple(experiment.requests(View(self.session, subject)))
        return experiment.follow_up(Inputs(self.runner, subject, first))

    def _looked_up(self) -> tuple[Request[Any], ...]:
        """Planned requests that are not known to be whole."""
        for request in self.session.planned:
            if request not in self.whole:
                try:
                    found = look(self.session, request)
                except McdoError as error:
                    self.refused.add(described(request), error)
                    continue
                self.keys[request] = found.key
                if found.whole:
                    self.whole.add(request)
        return self.left

    @property
    def left(self) -> tuple[Request[Any], ...]:
        """Planned requests that can be measured and are not whole."""
        return tuple(each for each in self.session.planned if each in self.keys and each not in self.whole)

    # ---- measuring

    def measure(self, share: Share | None = None, owners: Mapping[Request[Any], Owners] | None = None) -> None:
        """Measure what is left, or a share of it; what other processes are at is left to them as long as there is more.

        Raises:
            McdoError: for a store that cannot be written.

        """
        for wait in (False, True):
            for request in sorted(self.left, key=self._size_of_blocks, reverse=True):
                self._measure(request, wait, share, None if owners is None else owners[request])
        for experiment, wanted in self._wanted:
            self.session.used(experiment, wanted)

    def _size_of_blocks(self, request: Request[Any]) -> float:
        """Passes of a block: the largest first, so that processes end at about the same time."""
        passes, cut = request.expected_passes(self.session), request.divisible(self.session)
        return passes if cut is None else passes * min(cut) / cut[0]

    def _measure(self, request: Request[Any], waits: bool, share: Share | None, owners: Owners | None) -> None:
        part = Part(waits=waits)
        if share is not None and owners is not None:
            mine = owners == share.number - 1
            if not mine.any():
                return
            if request.divisible(self.session) is not None:
                part = Part(lambda block: bool(mine[block]), waits)
        store = self.session.store
        assert store is not None
        store.part = part
        try:
            self.session.measure(request)
            self.whole.add(request)
        except NotWholeError:
            pass
        except McdoError as error:
            self.refused.add(described(request), error)
            self.keys.pop(request, None)
        finally:
            store.part = Part()

    def divided(self, shares: int) -> dict[Request[Any], Owners]:
        """Who measures what, of all that is known and can be measured."""
        return divided(self.session, (each for each in self.session.planned if each in self.keys), shares)

    def write(self, path: Path, owners: Mapping[Request[Any], Owners], shares: int) -> None:
        """Write the plan for who looks on; all who share it write the same, but for what is whole by then."""
        tasks = []
        for request, by in owners.items():
            cut = len(by) > 1 or request.divisible(self.session) is not None
            ends = tuple(np.searchsorted(by, np.arange(shares), side="right").tolist()) if cut else ()
            served = request in self.whole
            passes = request.expected_passes(self.session)
            tasks.append(Task(described(request), self.keys[request], ends, int(by[0]), served, passes))
        plan = Plan(shares, tasks, not self.follows, self.refused.errors)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.{path.name}")  # many machines write it
        part.write_bytes(msgspec.json.encode(plan))
        part.replace(path)


def described(request: Request[Any]) -> str:
    """A measurement in a line, for people."""
    shown: Any = getattr(request, "shown", None)
    on = ""
    if isinstance(shown, Images):
        parts = [str(shown.n or "all"), "images", *([f"of {shown.source}"] if shown.source else [])]
        parts += [f"({shown.degradation})"] if shown.degradation else []
        parts += ["(one half)"] if shown.half else []
        on = f" on {' '.join(parts)}"
    elif shown is not None and hasattr(shown, "prompts"):
        on = f" on {len(shown.prompts)} prompts"
    if isinstance(request, Passes):
        config = request.config
        what = f"{config.dropout}, T = {config.passes[-1]}, K = {config.trials}"
    elif isinstance(request, FirstOrder):
        what = f"{request.dropout}, first order, R = {request.probes}, K = {request.trials}"
    else:
        what = request.what if isinstance(request, StoredArrays) else type(request).__name__
    return f"{request.model or 'no model'}{on}: {what}"
