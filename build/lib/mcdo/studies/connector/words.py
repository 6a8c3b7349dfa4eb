"""The tokenizer of the small language model: one token per word, built from the texts that it is to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, BEGIN, END, IMAGE = SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>")


def word_tokenizer(texts: Iterable[str], size: int = 4000) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the ``size`` most frequent words of ``texts`` (ties by alphabet), in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    plain = (normalizer.normalize_str(text.replace(IMAGE, " ")) for text in texts)
    counts = Counter(word for text in plain for word, _ in splitter.pre_tokenize_str(text))
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIAL, *sorted(kept)))}, unk_token=UNKNOWN))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[IMAGE],
    )
