"""The ablation: teacher-forced loss of each held-out item under each arm, and what the correct image is worth.

Loss of an item: mean negative log-likelihood of its label tokens, in nats. The differences to the correct arm are
paired by item, with a bootstrap interval of their mean over the images' origins and a one-sided Wilcoxon test,
corrected by Holm over the arms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mcdo.errors import McdoError
from mcdo.estimators.resumption import KeptValues
from mcdo.harness.claim import Claim
from mcdo.report.judgement import Outcome
from mcdo.stats import Estimate, holm, mean, wilcoxon_increase
from mcdo.store import Unfinished
from mcdo.studies.connector.arms import ARMS, CORRECT, visual_for
from mcdo.studies.connector.items import Item
from mcdo.studies.connector.models import ConnectorModel, inject
from mcdo.studies.connector.preflight import check_model, check_samples
from mcdo.studies.connector.samples import IGNORED, Batch, Sample, Wording, collate, without_image

Result = TypeVar("Result")
Array = NDArray[np.float64]
FEWEST, MOST = 64, 256
"""The protocol's held-out set."""


@dataclass(frozen=True)
class Comparison:
    """An arm beside the correct one: mean loss, mean paired difference, share of items that lose, and the test."""

    loss: Estimate
    difference: Estimate
    worse: Estimate
    p_value: float
    p_holm: float

    @property
    def verdict(self) -> Outcome:
        """Of "the loss with the correct image is lower"."""
        return lower_loss("", lambda comparison: comparison).judge(self).outcome

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        estimates = {name: getattr(self, name).as_dict() for name in ("loss", "difference", "worse")}
        return {**estimates, "p_value": self.p_value, "p_holm": self.p_holm, "verdict": self.verdict}


def lower_loss(name: str, of: Callable[[Result], Comparison], beside: str = "") -> Claim[Result]:
    """The claim that the loss is lower with the correct image: by the interval, and by the test after Holm."""
    return Claim(
        name,
        lambda result: of(result).difference,
        above=0.0,
        beside=lambda result: f"{of(result).worse.value:.0%} of items lose{beside}",
        p_holm=lambda result: of(result).p_holm,
        one_sided=True,
    )


@dataclass(frozen=True, eq=False)
class Ablation:
    """Losses [N] by arm in nats, and of each item its id, its image's origin and its number of label tokens, [N]."""

    ids: tuple[str, ...]
    origins: tuple[str, ...]
    losses: Mapping[str, Array]
    label_tokens: NDArray[np.int64]

    def difference(self, arm: str) -> Array:
        """Loss under ``arm`` less that with the correct image, per item [N]."""
        return np.asarray(self.losses[arm] - self.losses[CORRECT])

    def mean(self, arm: str, seed: int = 0) -> Estimate:
        """Mean loss over items, with its interval."""
        return mean(self.losses[arm], origins=self.origins, seed=seed)

    def token_mean(self, arm: str) -> float:
        """Mean loss over label tokens, as a trainer reports it: longer answers weigh more."""
        return float(np.average(self.losses[arm], weights=self.label_tokens))


def compare(ablations: Sequence[Ablation], seed: int = 0) -> list[dict[str, Comparison]]:
    """Every arm but the correct one beside it, for each connector; Holm over the arms of all connectors together."""
    others = [(ablation, arm) for ablation in ablations for arm in ablation.losses if arm != CORRECT]
    # one resample: the relative change, which is all that is resampled there, is not used here
    paired = [wilcoxon_increase(a.losses[arm], a.losses[CORRECT], origins=a.origins, resamples=1) for a, arm in others]
    found: dict[int, dict[str, Comparison]] = {id(ablation): {} for ablation in ablations}
    for (ablation, arm), each, p in zip(others, paired, holm([each.p_value for each in paired]), strict=True):
        found[id(ablation)][arm] = Comparison(
            loss=ablation.mean(arm, seed),
            difference=mean(ablation.difference(arm), origins=ablation.origins, seed=seed),
            worse=each.fraction,
            p_value=each.p_value,
            p_holm=float(p),
        )
    return [found[id(ablation)] for ablation in ablations]


def ablate(
    model: ConnectorModel,
    wording: Wording,
    items: Sequence[Item],
    pixels: Tensor,
    blank: Tensor,
    *,
    seed: int,
    origins: Sequence[str] | None = None,
    arms: Sequence[str] = ARMS,
    batch_size: int = 32,
    make_sample: Callable[[Item], Sample] | None = None,
    parts: Unfinished | None = None,
) -> Ablation:
    """Check model and samples, then measure every arm.

    Args:
        model: the connector model.
        wording: how its text is made.
        items: the held-out items, 64 to 256 of them.
        pixels: their normalised images, [N, 3, H, W].
        blank: the blank image, normalised, [1, 3, H, W].
        seed: of derangement and noise.
        origins: the original behind each item's image, [N]; None: each image is its own.
        arms: which arms.
        batch_size: items of one forward pass.
        make_sample: another way from item to sample than ``wording.sample``: it is checked like that one.
        parts: where losses are kept as they come, for whoever goes on where this process is killed.

    Raises:
        McdoError: for a set of another size, or one of ``faults``: nothing is measured then.

    """
    if not FEWEST <= len(items) <= MOST or len(pixels) != len(items):
        raise McdoError(
            f"{len(items)} items and {len(pixels)} images; the ablation takes {FEWEST} to {MOST} held-out items"
        )
    samples = [(make_sample or wording.sample)(item) for item in items]
    check_samples(items, samples, wording)
    check_model(model, samples, pixels, wording.pad_id)
    visual = _embedded(model, pixels, batch_size)
    images = tuple(item.image for item in items) if origins is None else tuple(origins)
    kept = KeptValues(parts, len(arms) * len(items), {})
    with kept.saved():
        for number, arm in enumerate(tqdm(arms, desc="ablation", unit="arm", disable=None)):
            first = number * len(items)
            if not kept.done[first : first + len(items)].all():
                shown = visual_for(arm, model, visual, blank, images, seed)
                item_losses(model, samples, shown, wording.pad_id, batch_size, kept, first)
    losses = dict(zip(arms, np.split(kept.values, len(arms)), strict=True))
    return Ablation(tuple(item.id for item in items), images, losses, np.array([s.label_tokens for s in samples]))


def _embedded(model: ConnectorModel, pixels: Tensor, batch_size: int) -> Tensor:
    """Projected embeddings of all images, [N, V, E]."""
    with torch.no_grad():
        return torch.cat([model.visual(part) for part in torch.split(pixels, batch_size)])


def item_losses(
    model: ConnectorModel,
    samples: Sequence[Sample],
    visual: Tensor | None,
    pad_id: int,
    batch_size: int = 32,
    kept: KeptValues | None = None,
    first: int = 0,
) -> Array:
    """Mean loss over each sample's label tokens, [N]; ``visual`` [N, V, E] goes to the placeholders, None drops them.

    They are ``kept`` from ``first`` on, and what is there already is not measured again.

    Raises:
        McdoError: if a loss is not finite.

    """
    held = KeptValues(None, len(samples), {}) if kept is None else kept
    for start in range(0, len(samples), batch_size):
        rows = slice(start, start + batch_size)
        if held.done[first + start : first + start + len(samples[rows])].all():
            continue
        shown = samples[rows] if visual is not None else [without_image(s, model.image_token_id) for s in samples[rows]]
        batch = collate(shown, pad_id, model.device)
        with torch.no_grad():
            found = batch_losses(model, batch, None if visual is None else visual[rows])
        held.put(first + start, found.cpu().double().numpy())
    losses = held.values[first : first + len(samples)]
    if not np.isfinite(losses).all():
        bad = samples[int(np.flatnonzero(~np.isfinite(losses))[0])].id
        raise McdoError(f"{bad}: its loss is not finite; look at the model's weights, or run it in float32")
    return losses


def batch_losses(model: ConnectorModel, batch: Batch, visual: Tensor | None) -> Tensor:
    """Mean cross-entropy over each row's labels, float32 [B]; NaN for a row without labels."""
    token_losses, counted = token_cross_entropy(model, batch, visual)
    return token_losses.sum(1) / counted.sum(1)


def token_cross_entropy(model: ConnectorModel, batch: Batch, visual: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token given those before it, [B, L-1], zero where unlabelled; and where it is labelled."""
    embeds = model.embed(batch.input_ids) if visual is None else inject(model, batch.input_ids, visual)
    logits, targets = model.logits(embeds, batch.attention_mask)[:, :-1].float(), batch.labels[:, 1:]
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return losses, targets != IGNORED
