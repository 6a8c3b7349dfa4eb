"""The whole check of a device as one script: ``python tests/device/check.py --device cuda --out FOLDER``.

It ends with 0 where every section ran and nothing is broken, else with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main(arguments: list[str] | None = None) -> int:
    from mcdo.experiments.cost.device.check import SECTIONS, run
    from mcdo.experiments.cost.device.setup import TOY, DeviceCheck
    from mcdo.perturbation import KeyedMasks

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "reports/device")))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--seconds", type=float, help="no section begins after that")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS), help="sections")
    parser.add_argument("--without-kernels", action="store_true", help="masks by tensor operations on CUDA too")
    asked = parser.parse_args(arguments)
    if asked.without_kernels:
        KeyedMasks.on_cuda = None  # type: ignore[assignment]
    sizes = TOY if asked.toy else DeviceCheck()
    if asked.seconds is not None:
        sizes = replace(sizes, total=asked.seconds)
    check = run(
        asked.device,
        sizes,
        asked.out,
        lambda line: print(line, flush=True),
        {name: SECTIONS[name] for name in asked.only},
    )
    print(check.markdown())
    for name, why in check.errors.items():
        print(f"---- {name}\n{why}")
    for name, row in check.broken:
        print(f"broken: {name}: {row}")
    return 0 if check.ok else 1


if __name__ == "__main__":
    sys.exit(main())
