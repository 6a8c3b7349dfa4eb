"""Prompts of exp10: wordings from vague to specific, and how specific each of them is by the published word lists.

A *frame* is a prompt with a gap for the class. The published bank has one frame for each style, so its styles differ in
length and nothing can be said about wording apart from length. The frames here repeat every style at several lengths.
All use words that the embedded encoders know; frames that only make sense for numbers are for those encoders alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders import find_spec
from mcdo.encoders.recipe import tokenizer
from mcdo.errors import McdoError, nearest
from mcdo.schema import read_lines

PUBLISHED = {
    "simple": "a {}",
    "photo": "a photo of a {}",
    "specific": "a detailed close-up photo of a {} in natural lighting",
    "ambiguous": "something that might be a {}",
}
GENERIC = (
    "an object", "a thing", "something", "an unknown item", "a blurry object", "a scene", "a visual concept",
)  # fmt: skip
FRAMES = {
    "simple": ("the {}",),
    "photo": ("an image of a {}", "a photo of an image of a {}", "an image of a photo of an image of a {}"),
    "specific": (
        "a detailed {}",
        "a detailed photo of a {}",
        "a {} in natural lighting",
        "a detailed {} in natural lighting",
        "a photo of a {} in natural lighting",
    ),
    "ambiguous": (
        "something in a {}",
        "a photo of something that might be a {}",
        "something in a photo that might be a {}",
        "something in an image of a photo of a {}",
        "something in natural lighting that might be a {}",
    ),
}
NUMBER_FRAMES = {
    "generic": (
        "something", "an image", "a photo", "a scan", "the number", "a handwritten number", "an image of something",
        "a photo of something", "a scan of something handwritten", "something in a photo of a number",
        "something that might be a number", "something in an image that might be a photo of a number",
        "a detailed photo", "a photo in natural lighting", "a detailed scan of a number in natural lighting",
    ),
    "simple": ("the number {}", "a handwritten {}", "the handwritten number {}"),
    "photo": ("a scan of the number {}", "an image of a handwritten {}", "a photo of an image of a handwritten {}",
              "a photo of an image of a scan of the number {}"),
    "specific": ("a close-up {}", "a detailed handwritten {}", "a detailed scan of the number {}",
                 "a close-up scan of the handwritten number {}", "an image of a detailed scan of the number {}",
                 "a scan of the handwritten number {} in natural lighting"),
    "ambiguous": ("something handwritten in a {}", "something that might be the number {}",
                  "something that might be a handwritten {}", "a scan of something that might be the number {}",
                  "something in an image of a scan of the number {}"),
}  # fmt: skip
GENERIC_STYLE = "generic"
"""Of frames that name no class."""
POSITIVE = frozenset(
    {"detailed", "close", "closeup", "high", "resolution", "wearing", "with", "next", "under", "inside", "outdoor",
     "indoor", "lighting", "texture", "color"}
)  # fmt: skip
NEGATIVE = frozenset(
    {"something", "object", "thing", "item", "unknown", "unclear", "maybe", "possibly", "blurry", "stuff"}
)


@dataclass(frozen=True, order=True)
class Prompt:
    """A prompt, its style, and the frame that it was made from: the prompt itself where it comes from a file."""

    text: str
    style: str
    frame: str


def bank(model: str, class_names: Sequence[str]) -> tuple[Prompt, ...]:
    """All distinct prompts of the bank for a model, sorted; those of an embedded encoder keep to its vocabulary."""
    numbers = find_spec(model).embedded
    frames = list(PUBLISHED.items())
    frames += [(style, frame) for style, held in FRAMES.items() for frame in held]
    frames += [(style, frame) for style, held in NUMBER_FRAMES.items() for frame in held if numbers]
    frames += [("generic", frame) for frame in GENERIC if not numbers]
    made: dict[str, Prompt] = {}
    for style, frame in frames:
        for name in class_names:
            text = frame.format(name)
            made[text] = Prompt(text, style, frame)
    return tuple(sorted(made.values()))


def sample(prompts: Sequence[Prompt], n: int, seed: int) -> tuple[Prompt, ...]:
    """``n`` of the prompts, sorted; all where there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:n]
    return tuple(sorted(prompts[i] for i in chosen))


def read_prompts(path: Path, model: str) -> tuple[Prompt, ...]:
    """Prompts of a file with lines ``style<TAB>prompt``, sorted; each is a frame of its own.

    Raises:
        McdoError: naming the line that is not of that form, repeats a prompt, or has a word that an embedded encoder
            does not know; or if the file cannot be read or holds fewer than five prompts.

    """
    lines = read_lines(path, "--prompts takes lines of style<TAB>prompt")
    found: dict[str, Prompt] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}, line {number}"
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise McdoError(f"{where}: {line[:60]!r} is not 'style<TAB>prompt'; every line needs both, and one tab")
        style, text = parts
        if text in found:
            raise McdoError(f"{where}: the prompt {text!r} stands in the file already; give each once")
        if find_spec(model).embedded:
            _check_words(where, model, text)
        found[text] = Prompt(text, style, text)
    if len(found) < 5:
        raise McdoError(f"{path.name}: {len(found)} prompts are too few for any statistic; give at least 5")
    return tuple(sorted(found.values()))


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(tokenizer().get_vocab())


def unknown_words(text: str) -> tuple[str, ...]:
    """Words (and signs) of ``text`` that the embedded encoders do not know."""
    known = _vocabulary()
    return tuple(word for word in re.findall(r"\w+|[^\w\s]+", text.lower()) if word not in known)


def _check_words(where: str, model: str, text: str) -> None:
    unknown = unknown_words(text)
    if unknown:
        known = [word for word in _vocabulary() if word.isalpha()]
        raise McdoError(
            f"{where}: {model} does not know the word {unknown[0]!r} (nearest: {nearest(unknown[0], known)}); "
            "reword the prompt, or name another model"
        )


def wording(prompts: Iterable[str]) -> NDArray[np.float64]:
    """.08 × specific words − .10 × vague words of the published lists, ``[n]``: specificity without its length."""
    words = [re.findall(r"[a-z]+", prompt.lower()) for prompt in prompts]
    counts = [(sum(w in POSITIVE for w in held), sum(w in NEGATIVE for w in held)) for held in words]
    return np.array([0.08 * positive - 0.10 * negative for positive, negative in counts])


def specificity(prompts: Sequence[str], tokens: ArrayLike) -> NDArray[np.float64]:
    """The published figure in [0, 1], ``[n]``: (.6 min(tokens, 20)/20 + wording + .25)/1.25, clipped.

    It grows with length by construction, so what follows it may follow length alone.
    """
    length = np.minimum(np.asarray(tokens, dtype=np.float64), 20) / 20
    return np.asarray(np.clip((0.6 * length + wording(prompts) + 0.25) / 1.25, 0, 1))
