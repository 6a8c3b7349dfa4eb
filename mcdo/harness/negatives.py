"""Known negatives: claims that were measured on the embedded encoders and do not hold, with the measured value.

``mcdo/data/findings.toml`` has one table for each. A test whose claim is listed becomes a strict xfail, so that a
change in either direction is loud. Findings hold for the embedded encoders only: a user's own is always judged afresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcdo.harness.settings import Settings
from mcdo.perturbation import Dropout
from mcdo.schema import Record, read_toml

FILE = Path(__file__).resolve().parents[1] / "data" / "findings.toml"


@dataclass(frozen=True)
class KnownNegative:
    """One claim that does not hold.

    Attributes:
        experiment: such as "exp5".
        claim: name of the claim in its test.
        model: key of the embedded encoder.
        images: image set.
        protocols: protocols under which it was measured.
        measured: estimate, interval and n, as text.
        reason: why it fails, as far as known.

    """

    experiment: str
    claim: str
    model: str
    images: str
    protocols: tuple[str, ...]
    measured: str
    reason: str


class _Table(Record, frozen=True):
    finding: tuple[KnownNegative, ...] = ()


@dataclass(frozen=True)
class KnownNegatives:
    """All known negatives."""

    all: tuple[KnownNegative, ...]

    @classmethod
    def load(cls, path: Path = FILE) -> KnownNegatives:
        """Read the table.

        Raises:
            McdoError: naming the entry and its key.

        """
        return cls(read_toml(path, _Table).finding)

    def lookup(self, experiment: str, claim: str, model: str, settings: Settings) -> KnownNegative | None:
        """The finding about a claim; only the encoders' own weights, the published perturbation and sizes have any."""
        about = {model} if model in settings.models else settings.models  # or all of them
        if settings.random_weights.intersection(about):
            return None
        if settings.seed != 42 or settings.dropout != Dropout() or settings.sizes.as_dict():
            return None
        wanted = (experiment, claim, model, settings.images)
        return next(
            (
                f
                for f in self.all
                if (f.experiment, f.claim, f.model, f.images) == wanted and settings.protocol in f.protocols
            ),
            None,
        )
