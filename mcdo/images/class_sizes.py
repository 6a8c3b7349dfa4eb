"""How many images of each class a source holds: what a sample of them can be spread over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcdo.images.load import _parse


def class_sizes(spec: str) -> NDArray[np.int64] | None:
    """Images of each class of a specification, [C], unreadable ones included; None where nobody labelled them.

    What is listed is not decoded. Raises McdoError as :func:`mcdo.load_images`.
    """
    kind, argument = _parse(spec)
    whole = kind.listed(argument) if kind.listed is not None else kind.load(argument, None, 0, False)
    return None if whole.labels is None else np.bincount(whole.labels, minlength=len(whole.class_names))
