"""What can be wrong with a connector, each under a name of its own, so that a test can say which one it caught."""

from __future__ import annotations

from mcdo.errors import McdoError, McdoWarning


class PlaceholderError(McdoError):
    """A sample does not hold one image placeholder for each visual embedding of the model."""


class InjectionError(McdoError):
    """The language model is not shown the projected embeddings at the places of the placeholders."""


class ProjectorError(McdoError):
    """The projector's output is the same for every image, is not used, or changes nothing in the predictions."""


class LabelError(McdoError):
    """The loss is taken over other tokens than those of the answer."""


class TruncationError(McdoError):
    """``max_seq_len`` cut away image tokens, every label, or too many samples."""


class TruncationWarning(McdoWarning):
    """The share of truncated samples, or of samples without labels, is worth a look."""
