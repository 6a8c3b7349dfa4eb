"""When and by what a result file was made: stands in each of them, and decides no number."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path


def made() -> dict[str, str]:
    """The time, the versions of mcdo and Python, and the commit of mcdo's checkout ("" where it is none)."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"time": now, "mcdo": _version(), "python": platform.python_version(), "commit": _commit()}


@cache
def _version() -> str:
    return importlib.metadata.version("mcdo")


@cache
def _commit() -> str:
    """Of this package, not of the folder somebody works in; ``-dirty`` where files differ from it."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  (no shell)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
