"""One thing that was looked at before a run: whether it is there, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "told", "absent", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was looked at: ``absent`` may be meant, ``told`` is to be known, ``wrong`` is to be mended before a run."""

    what: str
    state: State
    said: str

    def __str__(self) -> str:
        return self.said if self.said.startswith(self.what) else f"{self.what}: {self.said}"
