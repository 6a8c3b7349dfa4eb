"""Keeps the libraries' chatter off the terminal and off the network while a model loads.

What matters of the chatter is checked and raised instead. open_clip logs through the root logger, which would also
install a handler there for the rest of the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from mcdo.errors import McdoError


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No log line below ERROR from open_clip, transformers and huggingface_hub, no progress bar, no request inside.

    Nor is any code run that lies beside a model, whatever its settings say.
    """
    with ExitStack() as stack:
        stack.enter_context(_offline())
        stack.enter_context(_no_code_of_a_model())
        stack.enter_context(_quiet_open_clip())
        for name in ("transformers", "huggingface_hub"):
            stack.enter_context(_at_least_error(name))
        stack.enter_context(_no_progress_bar())
        yield


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    root.addFilter(_keep)
    try:
        yield
    finally:
        root.removeFilter(_keep)
        root.removeHandler(placeholder)


def _keep(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "open_clip" not in record.pathname


@contextmanager
def _offline() -> Iterator[None]:
    """What is not in the cache is an error at once, and not after minutes of trying."""
    from huggingface_hub import constants

    with patch.object(constants, "HF_HUB_OFFLINE", True):
        yield


@contextmanager
def _no_code_of_a_model() -> Iterator[None]:
    """The last lock behind the checks of settings: transformers imports a model's own modules through these alone."""
    from transformers import dynamic_module_utils

    def refuse(*_: object, **__: object) -> None:
        raise McdoError("the settings name code that comes with the model, which is never run here")

    with ExitStack() as stack:
        stack.enter_context(patch.object(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0))  # nothing asks the terminal
        for name in ("get_cached_module_file", "get_class_in_module"):
            stack.enter_context(patch.object(dynamic_module_utils, name, refuse))
        yield


@contextmanager
def _at_least_error(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
