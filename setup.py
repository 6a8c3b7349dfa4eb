"""Which packages a wheel holds; everything else stands in pyproject.toml, which cannot say where one lies elsewhere."""

from setuptools import find_namespace_packages, find_packages, setup

SUITE = ("gates", "experiments")
"""Folders of ``tests/`` that are ``mcdo.suite`` in a wheel, so that the gates run in any repository."""

setup(
    packages=[
        *find_packages(include=["mcdo*"]),
        *(f"mcdo.suite.{name}" for name in find_namespace_packages("tests", include=[f"{top}*" for top in SUITE])),
    ],
    package_dir={f"mcdo.suite.{top}": f"tests/{top}" for top in SUITE},
)
