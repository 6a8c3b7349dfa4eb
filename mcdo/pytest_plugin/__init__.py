"""The pytest side of the harness: options, marks, collection, fixtures, outcomes and scheduling."""

pytest_plugins = [
    "mcdo.pytest_plugin.options",
    "mcdo.pytest_plugin.marks",
    "mcdo.pytest_plugin.collection",
    "mcdo.pytest_plugin.fixtures",
    "mcdo.pytest_plugin.benchmark",
    "mcdo.pytest_plugin.outcomes",
    "mcdo.pytest_plugin.scheduling",
]
