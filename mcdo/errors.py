"""The one exception type of the harness, its warnings, and the "did you mean" helper behind its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mcdo import names


class McdoError(Exception):
    """Something the user can act on: the message says what is wrong, where, and what to do.

    Names in it come from outside, so whatever would steer a terminal or break an XML report is written as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__(names.message(message))


class NotApplicableError(McdoError):
    """What is asked for cannot be had of this encoder or these images. A test about them is skipped, and says why."""


class NoTextTowerError(NotApplicableError):
    """What is asked for needs a text tower, and the encoder has none."""


class UntrainedHeadError(NoTextTowerError):
    """A head reads images no better than a constant answer would, so nothing follows from its targets."""


class CriterionNotMetError(AssertionError):
    """A criterion was judged and is not met: a finding, not a fault. Its message is all that a report shows of it."""


class _PrintableWarning(UserWarning):
    def __init__(self, message: str) -> None:
        super().__init__(names.message(message))


class McdoWarning(_PrintableWarning):
    """Something that makes a number doubtful. Under pytest it is an error, unlike the warnings of libraries."""


class UnwrittenWarning(_PrintableWarning):
    """Something that was measured could not be written where it belongs. It never costs what was measured."""


class SiteWarning(_PrintableWarning):
    """What to know of a tower's linear maps before reading numbers that were measured at them."""


class LookAlikeWarning(_PrintableWarning):
    """Images that count as originals of their own look like each other."""


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Whatever a library makes of files that are absent, damaged or wrong, as a McdoError that begins with ``what``."""
    try:
        yield
    except McdoError:
        raise
    except BaseException as error:
        # Libraries in Rust panic past Exception, under a type that only they know.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise McdoError(f"{what}: {type(error).__name__} {' '.join(str(error).split())[:300]}") from error


def nearest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """The choices most like ``name``, as text for an error message (all of them when nothing is close)."""
    known = sorted(choices)
    return ", ".join(difflib.get_close_matches(name, known, n=n, cutoff=0.4) or known)
