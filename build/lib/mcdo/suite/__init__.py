"""The harness's own gates and the tests of every experiment, which :func:`mcdo.harness.tests_of` collects anywhere.

In a checkout they stand in ``tests/``, from where the wheel takes them (``setup.py``).
"""

from pathlib import Path

if not (Path(__file__).parent / "gates").is_dir():
    __path__.append(str(Path(__file__).parents[2] / "tests"))
