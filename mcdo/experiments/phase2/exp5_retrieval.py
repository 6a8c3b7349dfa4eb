"""Exp5's retrieval: does the score say which images are hard to match with the right one of their own captions?

Asked of a file of the user's (``--retrieval=FILE.json``). Each image has its own few captions, so this is no retrieval
from a gallery. A caption's logit is an increasing function of its cosine, so the order of captions and every rank
statistic of the gap are those of the logits. The bars are those of ambiguity: the gap between the two best captions
stands where the margin of the zero-shot head stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders.zero_shot import unit
from mcdo.errors import McdoError
from mcdo.estimators import TRACES
from mcdo.experiments.phase1.exp5_subset_ambiguity import AUROC_ENTROPY_BAR, RHO_ENTROPY_BAR
from mcdo.experiments.phase2.exp5_full_ambiguity import BASELINE, JUDGED
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, Request, Settings, TextFeatures, View
from mcdo.images.retrieval import RetrievalItem, read_items
from mcdo.stats import Estimate, auroc, auroc_high, auroc_low, partial_spearman, share, spearman

OPTION = "--retrieval"
BARS = {
    "rho_gap": ("rho_uncertainty_vs_negative_gap", RHO_ENTROPY_BAR),
    "auroc_low_gap": ("auroc_low_gap", AUROC_ENTROPY_BAR),
}
"""By claim: the figure, and what it must lie above."""
Array = NDArray[np.float64]
Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalResult:
    """How captions are matched.

    Attributes:
        gap: [N], between the two best captions, in cosine.
        rank: [N], of the right caption, 1 the best.
        recall: share of images whose right caption is the best.
        figures: by score, rank correlations and AUROCs, plain and with the feature norm held fixed.

    """

    gap: Array
    rank: Ranks
    recall: Estimate
    figures: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class CaptionRetrieval(Experiment[RetrievalResult | None]):
    """All images of the file, one trial at one T; None where there is no file."""

    key = "exp5_retrieval"
    name = "exp5_full_ambiguity"
    phase = "phase2"
    files = Files(overall="exp5_full_overall_summary.json")
    quick = {"passes": 32}
    published = TRACES
    knows_shared_noise = True

    passes: int = 64
    trials: int = 1
    retrieval: str = ""

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"retrieval": settings.own_data.get(OPTION, "")}

    @property
    def shown(self) -> Images:
        return Images(None, f"retrieval:{self.retrieval}")

    def run(self, model: str) -> Passes:
        return Passes(model, self.shown, self.protocol((self.passes,), self.trials))

    def texts(self, model: str) -> TextFeatures:
        return TextFeatures(model, prompts(read_items(self.retrieval)))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.run(about.model), self.texts(about.model)) if self.retrieval else ()

    def compute(self, inputs: Inputs) -> RetrievalResult | None:
        if not self.retrieval:
            return None
        run, norm = inputs[self.run(inputs.model)], inputs[self.run(inputs.model)].feature_norm
        gap, rank = gap_and_rank(read_items(self.retrieval), run.features, inputs[self.texts(inputs.model)]["features"])
        sampling: dict[str, Any] = {"origins": run.origins, "seed": self.seed}
        passes = {**sampling, "shared_noise": self.dropout.shared_by_images}
        return RetrievalResult(
            gap=gap,
            rank=rank,
            recall=share(rank == 1, origins=run.origins),
            figures={
                **{name: figures(run.scores(name), gap, rank, norm, **passes) for name in self.reported},
                BASELINE: figures(-norm, gap, rank, None, **sampling),
            },
        )

    def claims(self) -> Sequence[Claim[RetrievalResult | None]]:
        return [_follows(bar, score) for bar in BARS for score in dict.fromkeys((*JUDGED, *self.further))]

    def summary(self, result: RetrievalResult | None) -> Mapping[str, Any]:
        if result is None:
            return {}
        return {
            "file": Path(self.retrieval).name,
            "recall_at_1": result.recall,
            "mean_rank": float(result.rank.mean()),
            "scores": result.figures,
        }

    def overall(self, result: RetrievalResult | None, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if result is None else {"retrieval": summary}

    def arrays(self, inputs: Inputs, result: RetrievalResult | None) -> Mapping[str, Mapping[str, ArrayLike]]:
        if result is None:
            return {}
        run = inputs[self.run(inputs.model)]
        return {
            "{}/exp5_full_retrieval.npz": {
                "paths": np.array(run.ids),
                "origins": np.array(run.origins),
                "gap": result.gap,
                "rank": result.rank,
                "uncertainty": run.scores("trace_pre").mean(axis=0),
            }
        }


def prompts(items: Sequence[RetrievalItem]) -> tuple[str, ...]:
    """Every caption once, in order of first use."""
    return tuple(dict.fromkeys(caption for item in items for caption in item.captions))


def gap_and_rank(
    items: Sequence[RetrievalItem], images: NDArray[np.float32], texts: NDArray[np.float32]
) -> tuple[Array, Ranks]:
    """Gap and rank of each item, [N] each, from image features [N, D] and text features of :func:`prompts`, [M, D].

    The rank counts the captions that are strictly better than the right one, plus one.
    """
    place = {caption: i for i, caption in enumerate(prompts(items))}
    image, text = (unit(features) for features in (images, texts))
    gaps, ranks = [], []
    for row, item in zip(image, items, strict=True):
        captions = text[[place[caption] for caption in item.captions]]
        _check_distinct(item, captions)
        cosine = captions @ row
        best = np.sort(cosine)[::-1]
        gaps.append(best[0] - best[1])
        ranks.append(1 + int((cosine > cosine[item.correct_index]).sum()))
    return np.array(gaps), np.array(ranks, dtype=np.int64)


def figures(score: Array, gap: Array, rank: Ranks, norm: Array | None, **sampling: Any) -> dict[str, Estimate]:
    """What ``score`` [N] or [K, N] says of gap and rank [N]; given the ``norm`` [N] too where there is one."""
    areas = {key: value for key, value in sampling.items() if key != "seed"}
    found = {
        "rho_uncertainty_vs_negative_gap": spearman(score, -gap, **sampling),
        "rho_uncertainty_vs_rank": spearman(score, rank, **sampling),
        "auroc_low_gap": auroc_low(score, gap, **areas),
        "auroc_high_rank": auroc_high(score, rank, **areas),
        "auroc_wrong_caption": auroc(score, rank > 1, **areas),
    }
    if norm is not None and len(gap) > 3:
        found["rho_uncertainty_vs_negative_gap_given_norm"] = partial_spearman(score, -gap, norm, **sampling)
        found["rho_uncertainty_vs_rank_given_norm"] = partial_spearman(score, rank, norm, **sampling)
    return found


def _check_distinct(item: RetrievalItem, captions: Array) -> None:
    """Raise McdoError where the text tower cannot tell two captions of an image apart: which is the right one?"""
    for i, j in np.argwhere(np.triu(captions @ captions.T > 1 - 1e-6, k=1)):
        raise McdoError(
            f"{item.image_path}: the captions {item.captions[i]!r} and {item.captions[j]!r} are the same to the text "
            "tower (its tokenizer drops case, spaces and what is beyond the context length); leave one out"
        )


def _follows(bar: str, score: str) -> Claim[RetrievalResult | None]:
    key, threshold = BARS[bar]

    def beside(result: RetrievalResult | None) -> str:
        if result is None:
            return f"no {OPTION}=FILE.json, a list of {{image_path, captions, correct_index}}"
        wrong = result.figures[score]["auroc_wrong_caption"]
        return f"AUROC(wrong caption) {wrong}; minus the norm alone {result.figures[BASELINE][key]}"

    return Claim(
        f"{bar}/{score}", lambda r: None if r is None else r.figures[score][key], above=threshold, beside=beside
    )
