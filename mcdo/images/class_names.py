"""Class names for prompts: words, never synset IDs.

ImageNet synset IDs (``n01484850``) are looked up in the tables that open_clip (names curated for prompts, 1000
classes) and timm (WordNet lemmas and definitions, all of ImageNet) ship. Other directory names speak for themselves,
in composed letters (NFC), without a number or an ID that stands before each (``001.Black_footed_Albatross``,
``n02085620-Chihuahua``).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path

from mcdo.errors import McdoError
from mcdo.names import visible

_SYNSET = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"(n\d{8}|\d+)[-._ ]+(?=[^\W\d_])")
"""What data sets write before the name of a class, to keep classes in order."""


def class_names(root: Path, directories: list[str]) -> tuple[str, ...]:
    """One name per class directory of ``root``, all different: two classes with one prompt cannot be told apart.

    Names that differ in case, spaces or normal form alone are one prompt to the text towers here, and in letters that
    nobody sees one name to people. What else a tokenizer
    makes equal is refused when the prompts are tokenized.

    Synsets whose names coincide take the next more specific name (curated, first lemma, all lemmas, lemmas with
    definition). Raises McdoError for a synset ID in no table, a class without a name, and two that read the same.
    """
    candidates = [_candidates(root, name) for name in _unnumbered(directories)]
    level = [0] * len(candidates)
    while True:
        names = tuple(options[i] for options, i in zip(candidates, level, strict=True))
        read = [_as_read(name) for name in names]
        if not all(read):
            raise McdoError(f"{root}: class {read.index('')} has no name, or none that can be seen; give it one")
        count = Counter(read)
        clashing = [i for i, name in enumerate(read) if count[name] > 1]
        if not clashing:
            return names
        movable = [i for i in clashing if level[i] + 1 < len(candidates[i])]
        if not movable:
            both = ", ".join(directories[i] for i in clashing if read[i] == read[clashing[0]])
            raise McdoError(
                f"{root}: the class directories {both} all read {read[clashing[0]]!r} to a text tower; "
                "rename or merge them"
            )
        for i in movable:
            level[i] += 1


def _unnumbered(directories: list[str]) -> list[str]:
    """Names without the numbers before them, where every one has its own and they are written alike."""
    found = [_NUMBERED.match(name) for name in directories]
    numbers = [each[1] for each in found if each is not None]
    if len(numbers) < 2 or len(set(numbers)) < len(directories) or len(set(map(len, numbers))) > 1:
        return directories
    return [_NUMBERED.sub("", name, count=1) for name in directories]


def _as_read(name: str) -> str:
    """A name as the tokenizers of CLIP and SigLIP read it: composed, in lower case, one space between words.

    What nobody sees is left out, though a tokenizer may see it.
    """
    return visible(" ".join(unicodedata.normalize("NFC", html.unescape(html.unescape(name))).lower().split()))


def _candidates(root: Path, directory: str) -> list[str]:
    """The possible names of one class, the preferred one first."""
    if not _SYNSET.fullmatch(directory):
        # composed, for tokenizers of SigLIP's kind read other tokens in what a Mac's archive decomposed
        return [unicodedata.normalize("NFC", directory).replace("_", " ").strip()]
    lemmas, definitions = _wordnet()
    if directory not in lemmas:
        raise McdoError(
            f"{root / directory} looks like an ImageNet synset ID but is in no table; rename it to its class"
        )
    words = lemmas[directory]
    curated = [_curated()[directory]] if directory in _curated() else []
    return [*curated, words.split(",")[0].strip(), words, definitions[directory]]


@lru_cache(maxsize=1)
def _curated() -> dict[str, str]:
    # Here, not above: open_clip and timm take seconds to import, and only folders of synsets need them.
    import open_clip
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), open_clip.IMAGENET_CLASSNAMES, strict=True))


@lru_cache(maxsize=1)
def _wordnet() -> tuple[dict[str, str], dict[str, str]]:
    """By synset ID: the lemmas, and the lemmas with the definition."""
    from timm.data import ImageNetInfo

    lemmas, definitions = {}, {}
    for subset in ("imagenet-1k", "imagenet-22k", "imagenet-21k-goog"):  # each lacks some of the others' synsets
        info = ImageNetInfo(subset)
        for synset in info.label_names():
            lemmas[synset] = info.label_name_to_description(synset)
            definitions[synset] = info.label_name_to_description(synset, detailed=True)
    return lemmas, definitions
