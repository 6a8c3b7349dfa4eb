"""Checks before anything is measured: a low or a high loss means nothing while one of these fails.

Each looks at what the samples hold or at what the model does, not at how they were made, so that it also catches a
collator or a model of one's own. Every failure is an error of ``faults`` that names the item or the part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mcdo.studies.connector.faults import (
    InjectionError,
    LabelError,
    PlaceholderError,
    ProjectorError,
    TruncationError,
)
from mcdo.studies.connector.items import Item
from mcdo.studies.connector.models import ConnectorModel, inject
from mcdo.studies.connector.samples import IGNORED, Batch, Sample, Wording, collate

PROBED = 4
"""Items that are run through the model for the checks."""


def check_samples(items: Sequence[Item], samples: Sequence[Sample], wording: Wording) -> None:
    """Placeholders and labels of every sample, against the items they were made from.

    Raises:
        TruncationError: if ``max_seq_len`` cut image tokens, or all labels.
        PlaceholderError: if the number of placeholders is not that of the visual embeddings.
        LabelError: if labels are not exactly the answer's tokens, and only they.

    """
    for item, sample in zip(items, samples, strict=True):
        check_placeholders(sample, wording)
        check_labels(item, sample, wording)


def check_placeholders(sample: Sample, wording: Wording) -> None:
    """One placeholder per visual embedding; raises as :func:`check_samples`."""
    found, needed = sample.input_ids.count(wording.image_token_id), wording.tokens_per_image
    if found < needed and sample.truncated:
        raise TruncationError(
            f"{sample.id}: max_seq_len {wording.max_seq_len} cut {needed - found} of {needed} image tokens; increase "
            "max_seq_len or put <image> first in the prompt"
        )
    if found != needed:
        raise PlaceholderError(
            f"{sample.id}: {found} image placeholders for {needed} visual embeddings; make the text with as many as "
            "the vision tower gives"
        )


def check_labels(item: Item, sample: Sample, wording: Wording) -> None:
    """Labels on the answer and nowhere else; raises as :func:`check_samples`."""
    if len(sample.labels) != len(sample.input_ids):
        raise LabelError(f"{sample.id}: {len(sample.labels)} labels for {len(sample.input_ids)} tokens")
    at = [i for i, label in enumerate(sample.labels) if label != IGNORED]
    answer = wording.answer(item)
    if not at and sample.truncated:
        raise TruncationError(
            f"{sample.id}: max_seq_len {wording.max_seq_len} cut all labels; increase max_seq_len or shorten the "
            "prompt around the image"
        )
    if not at:
        raise LabelError(
            f"{sample.id}: no token is labelled, so there is no loss; label the {len(answer)} of the answer"
        )
    if any(sample.input_ids[i] == wording.image_token_id for i in at):
        raise LabelError(f"{sample.id}: image tokens are in the loss; their labels must be {IGNORED}")
    if any(sample.labels[i] != sample.input_ids[i] for i in at):
        raise LabelError(f"{sample.id}: a label is not the token at its own place; the shift by one comes later")
    if len(at) > len(answer) or at != list(range(at[0], at[0] + len(at))):
        raise LabelError(
            f"{sample.id}: {len(at)} tokens are in the loss, the answer has {len(answer)}; tokens of the prompt "
            f"must be labelled {IGNORED}"
        )
    labelled = tuple(sample.labels[i] for i in at)
    if labelled != answer[: len(labelled)] or (len(labelled) < len(answer) and not sample.truncated):
        raise LabelError(f"{sample.id}: the labelled tokens {labelled} are not the answer's {answer}")


def check_model(model: ConnectorModel, samples: Sequence[Sample], pixels: Tensor, pad_id: int) -> None:
    """Projector and injection, on the first few samples with ``pixels`` [B, 3, H, W], two different images among them.

    Raises:
        ProjectorError: if its output does not depend on the image, is not used, or changes no prediction.
        InjectionError: if the model's own forward pass does not predict what the embeddings in place of the
            placeholders predict.

    """
    pixels, batch = pixels[:PROBED], collate(samples[:PROBED], pad_id, model.device)
    with torch.no_grad():
        visual = model.visual(pixels)
        _check_depends_on_image(visual)
        with _disturbed(model.projector):
            other = model.visual(pixels)
        if torch.equal(other, visual):
            raise ProjectorError(
                "the visual embeddings do not come from the projector: changing its output changes none"
            )
        shown = _predictions(model, batch, visual)
        _check_own_pass(model, batch, pixels, shown)
        if torch.equal(_predictions(model, batch, other), shown):
            raise ProjectorError(
                "other visual embeddings change no prediction of the answer: the language model does not attend to them"
            )


def _check_depends_on_image(visual: Tensor) -> None:
    spread = (visual - visual[:1]).abs().max()
    if not bool(torch.isfinite(visual).all()):
        raise ProjectorError("the visual embeddings are not finite; look at the projector's weights")
    if float(spread) <= 1e-6 * float(visual.abs().max()):
        raise ProjectorError(
            "the visual embeddings are the same for different images: the projector's output is constant, or the "
            "vision tower's is"
        )


def _check_own_pass(model: ConnectorModel, batch: Batch, pixels: Tensor, shown: Tensor) -> None:
    own = _at_labels(batch, model.own_logits(batch.input_ids, batch.attention_mask, pixels))
    tolerance = (1e-3 if own.dtype == torch.float32 else 5e-2) * float(shown.abs().max())
    if torch.allclose(own.float(), shown.float(), atol=tolerance, rtol=0):
        return
    blind = torch.equal(own, _at_labels(batch, model.own_logits(batch.input_ids, batch.attention_mask, pixels.flip(0))))
    what = "image tokens are not replaced: its predictions are the same for another image" if blind else (
        f"its predictions differ by up to {float((own - shown).abs().max()):.3g} from those with the projected "
        "embeddings in the places of the placeholders"
    )  # fmt: skip
    raise InjectionError(f"the model's own forward pass: {what}")


def _predictions(model: ConnectorModel, batch: Batch, visual: Tensor) -> Tensor:
    return _at_labels(batch, model.logits(inject(model, batch.input_ids, visual), batch.attention_mask))


def _at_labels(batch: Batch, logits: Tensor) -> Tensor:
    """The logits that predict labelled tokens, [n, W]."""
    return logits[:, :-1][batch.labels[:, 1:] != IGNORED]


@contextmanager
def _disturbed(projector: torch.nn.Module) -> Iterator[None]:
    """The projector's output reversed and moved by one, inside."""
    handle = projector.register_forward_hook(lambda _, __, out: out.flip(-1) + 1)
    try:
        yield
    finally:
        handle.remove()
