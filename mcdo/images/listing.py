"""What a source of image files holds before any is decoded, and the choice of them that becomes an image set."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.images.copies import Look, look_of, warn_of_look_alikes
from mcdo.images.decode import UnreadableImageError
from mcdo.images.image_set import ImageSet, Skipped, Source
from mcdo.images.sampling import spread_order
from mcdo.images.threads import for_each

_NAMED_IN_ERROR = 10


class TooFewImagesError(McdoError):
    """More images were asked for than there are."""


class FileSource(Source, Protocol):
    """A source whose images lie in files."""

    def signature(self, image_id: str) -> Hashable:
        """What changes when the file does, without reading it; None where that cannot be told."""
        ...


@dataclass(frozen=True)
class Looked:
    """What was seen of a source.

    Attributes:
        there: images that it holds.
        class_names: its classes; () where nobody labelled them.
        chosen: images that were to be decoded.
        looked_at: of these, those that were.
        originals: units that these were made from.
        single: classes of which one original alone is chosen, as far as origins are known.
        unusable: of these, those that are no readable image.

    """

    there: int
    class_names: tuple[str, ...]
    chosen: int
    looked_at: int
    originals: int
    single: tuple[str, ...] = ()
    unusable: tuple[UnreadableImageError, ...] = ()


@dataclass(frozen=True, eq=False)
class Listing:
    """Images by id, sorted, with what is known of each.

    Attributes:
        name: the specification.
        where: the folder or file, for messages.
        ids: unique, sorted.
        labels: int64 [N] into ``class_names``; None where nobody labelled the images.
        class_names: every class of the source.
        source: gives each image.
        skipped: what was left out already.
        origins: the unit that was sampled, [N]; () for the content of each file, so that copies count once.
        lines: of a list that names images, the line of each.

    """

    name: str
    where: str
    ids: tuple[str, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    source: FileSource
    skipped: tuple[Skipped, ...] = ()
    origins: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)

    def load(self, n: int | None, seed: int, *, skip_unreadable: bool) -> ImageSet:
        """``n`` images (None: all), spread over the classes by ``seed``, each decoded once as a check.

        Raises:
            TooFewImagesError: for n above the number of images.
            McdoError: for images that cannot be used, naming them; with ``skip_unreadable`` only where none is left.

        """
        if n is not None and n > len(self.ids):
            count = len(self.ids)
            raise TooFewImagesError(f"{self.where} holds {count} images, {n} were asked for; ask for at most {count}")
        chosen = np.sort(self._order(seed)[:n])
        ids = [self.ids[i] for i in chosen]
        checked = for_each(lambda i: self._check(ids[i]), len(ids), f"checking {self.where}")
        bad = [each for each in checked if isinstance(each, UnreadableImageError)]
        if len(bad) == len(ids) or (bad and not skip_unreadable):
            raise unusable(self.where, bad, len(ids))
        kept = [i for i, each in enumerate(checked) if isinstance(each, _Checked)]
        hashes = tuple(each.content for each in checked if isinstance(each, _Checked))
        if not self.origins:
            warn_of_look_alikes(self.where, {each.content: each.look for each in checked if isinstance(each, _Checked)})
        left_out = [
            Skipped(image_id, each.reason)
            for image_id, each in zip(ids, checked, strict=True)
            if isinstance(each, UnreadableImageError)
        ]
        return ImageSet(
            name=self.name,
            ids=tuple(ids[i] for i in kept),
            labels=None if self.labels is None else self.labels[chosen[kept]],
            class_names=self.class_names,
            seed=seed,
            source=self.source,
            content_hashes=hashes,
            skipped=(*self.skipped, *left_out),
            origins=tuple(self.origins[chosen[i]] for i in kept) if self.origins else hashes,
        )

    def look(self, n: int | None, seed: int, seconds: float) -> Looked:
        """Decode those that :meth:`load` would, for so long; what was decoded is not decoded again by it."""
        chosen, until = self._order(seed)[:n], time.monotonic() + seconds

        def check(i: int) -> _Checked | UnreadableImageError | None:
            return self._check(self.ids[chosen[i]]) if time.monotonic() < until else None

        checked = for_each(check, len(chosen), f"checking {self.where}")
        bad = tuple(each for each in checked if isinstance(each, UnreadableImageError))
        kept = [i for i, each in zip(chosen, checked, strict=True) if isinstance(each, _Checked)]
        contents = {each.content for each in checked if isinstance(each, _Checked)}
        originals = {self.origins[i] for i in kept} if self.origins else contents
        looked_at = len(kept) + len(bad)
        single = self._single(chosen)
        return Looked(len(self.ids), self.class_names, len(chosen), looked_at, len(originals), single, bad)

    def _single(self, chosen: NDArray[np.int64]) -> tuple[str, ...]:
        if self.labels is None:
            return ()
        units = self.origins or self.ids
        of: dict[int, set[str]] = {}
        for i in chosen:
            of.setdefault(int(self.labels[i]), set()).add(units[i])
        return tuple(self.class_names[label] for label, held in sorted(of.items()) if len(held) == 1)

    def _check(self, image_id: str) -> _Checked | UnreadableImageError:
        found = _check(self.source, image_id)
        if isinstance(found, UnreadableImageError) and image_id in self.lines:
            return UnreadableImageError(
                found.path, f"{found.reason}; named in {self.where}, line {self.lines[image_id]}"
            )
        return found

    def _order(self, seed: int) -> NDArray[np.int64]:
        labels = np.zeros(len(self.ids), dtype=np.int64) if self.labels is None else self.labels
        return spread_order(labels, seed, self.origins)


@dataclass(frozen=True, eq=False)
class _Checked:
    """The hash of an image's content, and what it looks like."""

    content: str
    look: Look | None


_checked: dict[Hashable, _Checked | UnreadableImageError] = {}
"""Files that were decoded, or what is wrong with them, as long as they are what they were."""


def _check(source: FileSource, image_id: str) -> _Checked | UnreadableImageError:
    signature = source.signature(image_id)
    if signature is not None and signature in _checked:
        return _checked[signature]
    found: _Checked | UnreadableImageError
    try:
        image, content = source.load(image_id)
        found = _Checked(content, look_of(image))
    except UnreadableImageError as error:
        found = error
    if signature is not None:
        _checked[signature] = found
    return found


def unusable(where: str, bad: Sequence[UnreadableImageError], count: int) -> McdoError:
    """The error for images that cannot be used, of ``count``."""
    if len(bad) == 1 < count:
        return bad[0]
    lines = [f"  {each.path}: {each.reason}" for each in bad[:_NAMED_IN_ERROR]]
    more = [f"  and {len(bad) - _NAMED_IN_ERROR} more"] if len(bad) > _NAMED_IN_ERROR else []
    remedy = "leave them out with --skip-unreadable (skip_unreadable=True)" if len(bad) < count else "none is readable"
    return McdoError("\n".join([f"{where}: {len(bad)} of {count} images cannot be used; {remedy}", *lines, *more]))
