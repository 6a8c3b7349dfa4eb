"""Runs the sections of the device check in the order of their worth; none can stop another.

After each section the results are written anew, so that a run that is cut short leaves what it found.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcdo.experiments.cost.device import agreement, speed
from mcdo.experiments.cost.device.setup import DeviceCheck, Machine, Row
from mcdo.report.files import write_json, write_text

Section = Callable[[Machine], Iterable[Row]]

SECTIONS: Mapping[str, tuple[Section, float]] = {
    "card": (speed.card, 20),
    "masks": (agreement.masks, 40),
    "scores": (agreement.scores, 60),
    "synchronisation": (agreement.synchronisation, 40),
    "passes": (speed.passes, 150),
    "profile": (speed.profile, 15),
    "loop": (speed.loop, 60),
    "first order": (speed.first_order, 50),
    "fidelity": (agreement.fidelity, 40),
    "graphs": (speed.graphs, 30),
    "spectrum": (speed.spectrum, 15),
    "compile": (speed.compiled, 60),
}
"""By name: the section, and the seconds that it may take."""


@dataclass
class Check:
    """What was found, section by section; ``errors`` and ``not_run`` say why one has no rows, or not all of them."""

    device: str
    sizes: DeviceCheck
    sections: dict[str, list[Row]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every section ran to its end and no row breaks what it is judged by."""
        return not (self.errors or self.not_run or self.broken)

    @property
    def broken(self) -> list[tuple[str, Row]]:
        """Rows that break what they are judged by."""
        return [(name, row) for name, rows in self.sections.items() for row in rows if row.get("ok") is False]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def markdown(self) -> str:
        lines = [f"# Device check on {self.device}", ""]
        for name, rows in self.sections.items():
            lines += [f"## {name} ({self.seconds.get(name, 0):.0f} s)", "", *_table(rows), ""]
        for what, said in (("failed", self.errors), ("not run", self.not_run)):
            lines += [f"- {name}: {what}: {why.strip().splitlines()[-1]}" for name, why in said.items()]
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path) -> None:
        # a figure that is not finite, such as a correlation of constants, is written as its word
        plain = json.loads(json.dumps(self.as_dict(), default=str), parse_constant=str)
        write_json(folder / "device.json", plain)
        write_text(folder / "device.md", self.markdown())


def run(
    device: str,
    sizes: DeviceCheck,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    sections: Mapping[str, tuple[Section, float]] = SECTIONS,
) -> Check:
    """Run every section that there is time for.

    Args:
        device: a torch device.
        sizes: see :class:`DeviceCheck`.
        folder: where device.json and device.md are written after each section.
        say: told what happens.
        sections: by name, with the seconds that each may take.

    """
    check, machine, began = Check(device, sizes), Machine(device, sizes), time.monotonic()
    try:
        for name, (section, budget) in sections.items():
            left = sizes.total - (time.monotonic() - began)
            if left <= 0:
                check.not_run[name] = f"no time was left of {sizes.total:.0f} s"
                continue
            _section(check, machine, name, section, min(left, sizes.patience * budget))
            check.write(folder)
            say(f"{name}: {check.seconds[name]:.1f} s" + (", FAILED" if name in check.errors else ""))
    finally:
        machine.close()
        check.write(folder)
    return check


def _section(check: Check, machine: Machine, name: str, section: Section, seconds: float) -> None:
    start = time.monotonic()
    check.sections[name] = []
    try:
        for row in section(machine):
            check.sections[name].append(row)
            if time.monotonic() - start > seconds:
                check.not_run[name] = f"stopped after {len(check.sections[name])} rows: {seconds:.0f} s were up"
                break
    except Exception:  # whatever goes wrong on a device is a finding, and the other sections shall run
        check.errors[name] = traceback.format_exc()
    check.seconds[name] = time.monotonic() - start


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ["nothing"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_shown(row.get(column)) for column in columns) + " |" for row in rows]


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")
