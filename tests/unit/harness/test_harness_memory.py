from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcdo.harness.memory import available_memory

GB = 2**30


def system(root: Path, group: str, files: dict[str, str]) -> Path:
    """A system of 8 GB to use, whose process is in a control group."""
    files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n", "proc/self/cgroup": group, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def limit(place: str, most: str, used: int, files: int = 0) -> dict[str, str]:
    names = ("memory.max", "memory.current", "inactive_file")
    if place.startswith("sys/fs/cgroup/memory"):
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 1\n{names[2]} {files}\n"
    return {f"{place}/{names[0]}": f"{most}\n", f"{place}/{names[1]}": f"{used}\n", f"{place}/memory.stat": stat}


@pytest.mark.parametrize(
    ("group", "files", "gigabytes"),
    [
        pytest.param("0::/\n", {}, 8, id="no limit"),
        pytest.param("0::/job/step\n", limit("sys/fs/cgroup/job/step", "max", GB), 8, id="unlimited"),
        pytest.param("0::/job\n", limit("sys/fs/cgroup/job", str(4 * GB), GB), 3, id="version 2"),
        pytest.param("0::/job\n", limit("sys/fs/cgroup/job", str(4 * GB), 3 * GB, files=2 * GB), 3, id="files go"),
        pytest.param("0::/job/step\n", limit("sys/fs/cgroup/job", str(2 * GB), GB), 1, id="of the job above"),
        pytest.param("0::/job\n", limit("sys/fs/cgroup/job", str(64 * GB), GB), 8, id="more than there is"),
        pytest.param("0::/job\n", limit("sys/fs/cgroup/job", str(GB), 2 * GB), 0, id="none left"),
        pytest.param("0::/away\n", limit("sys/fs/cgroup", str(2 * GB), GB), 1, id="own group not seen"),
        pytest.param("4:memory:/a\n1:cpu:/a\n", limit("sys/fs/cgroup/memory/a", str(3 * GB), GB), 2, id="version 1"),
        pytest.param("4:cpu,cpuset:/a\n", limit("sys/fs/cgroup/memory/a", str(3 * GB), GB), 8, id="of another kind"),
        pytest.param("no group\n", {}, 8, id="unreadable"),
    ],
)
def test_memory_is_the_least_of_the_machines_and_its_limits(
    tmp_path: Path, group: str, files: dict[str, str], gigabytes: int
) -> None:
    assert available_memory(system(tmp_path, group, files)) == gigabytes * GB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc; other systems say nothing")
def test_this_machine_has_some_of_what_it_holds() -> None:
    found = available_memory()
    assert found is not None
    assert 2**20 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
