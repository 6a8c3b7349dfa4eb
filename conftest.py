"""Root conftest: loads the harness, so that its options, marks and fixtures exist wherever pytest is called from."""

pytest_plugins = ["mcdo.pytest_plugin"]
