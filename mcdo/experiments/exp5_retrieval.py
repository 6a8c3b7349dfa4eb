"""Exp5's retrieval: does the score say which images will be matched with the wrong one of their own captions?

Each image has its own few captions, so this is no retrieval from a gallery. A caption's logit is an increasing function
of its cosine, so the order of captions and every rank statistic of the gap are those of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import Need, add_to_json, origin, write_npz
from mcdo.experiments.exp5_full_ambiguity import FOLDER, SCORES, Exp5FullConfig
from mcdo.images.retrieval import RetrievalItem, read_items
from mcdo.names import file_name
from mcdo.stats import Estimate, auroc, auroc_high, auroc_low, partial_spearman, proportion, spearman

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class RetrievalResult:
    """Per image the gap between the two best captions (in cosine) and the rank of the right one, 1 the best.

    ``figures`` by score: rank correlations and AUROCs, plain and with the feature norm held fixed.
    """

    gap: Scores
    rank: NDArray[np.int64]
    recall: Estimate
    figures: dict[str, dict[str, Estimate]]


def retrieval_need(config: Exp5FullConfig, model: str, path: str | Path) -> Need:
    """One trial on the images of the file."""
    run = MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed)
    return Need(model, len(read_items(path)), run, images=f"retrieval:{path}")


def prompts(items: Sequence[RetrievalItem]) -> list[str]:
    """Every caption once, in order of first use."""
    return list(dict.fromkeys(caption for item in items for caption in item.captions))


def gap_and_rank(
    items: Sequence[RetrievalItem], images: NDArray[np.float32], texts: NDArray[np.float32]
) -> tuple[Scores, NDArray[np.int64]]:
    """Gap and rank of each item, [N] each, from image features [N, D] and text features of :func:`prompts`, [M, D].

    The rank counts the captions that are strictly better than the right one, plus one.
    """
    place = {caption: i for i, caption in enumerate(prompts(items))}
    image, text = (_unit(features) for features in (images, texts))
    gaps, ranks = [], []
    for row, item in zip(image, items, strict=True):
        captions = text[[place[caption] for caption in item.captions]]
        _check_distinct(item, captions)
        cosine = captions @ row
        best = np.sort(cosine)[::-1]
        gaps.append(best[0] - best[1])
        ranks.append(1 + int((cosine > cosine[item.correct_index]).sum()))
    return np.array(gaps), np.array(ranks, dtype=np.int64)


def _check_distinct(item: RetrievalItem, captions: Scores) -> None:
    """Raise McdoError where the text tower cannot tell two captions of an image apart: which is the right one?"""
    for i, j in np.argwhere(np.triu(captions @ captions.T > 1 - 1e-6, k=1)):
        raise McdoError(
            f"{item.image_path}: the captions {item.captions[i]!r} and {item.captions[j]!r} are the same to the text "
            "tower (its tokenizer drops case, spaces and what is beyond the context length); leave one out"
        )


def _unit(features: NDArray[np.float32]) -> Scores:
    wide = features.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def compute_retrieval(
    config: Exp5FullConfig, run: MonteCarloRun, items: Sequence[RetrievalItem], texts: NDArray[np.float32]
) -> RetrievalResult:
    """Everything of one model, from the run on the file's images and the text features of :func:`prompts`."""
    gap, rank = gap_and_rank(items, run.features, texts)
    scores = {name: run.scores(name, config.passes)[0] for name in SCORES} | {"negative_norm": -run.feature_norm}
    return RetrievalResult(
        gap=gap,
        rank=rank,
        recall=proportion(int((rank == 1).sum()), len(rank)),
        figures={
            name: _figures(score, gap, rank, None if name == "negative_norm" else run.feature_norm, config.seed)
            for name, score in scores.items()
        },
    )


def _figures(
    score: Scores, gap: Scores, rank: NDArray[np.int64], norm: Scores | None, seed: int
) -> dict[str, Estimate]:
    found = {
        "rho_uncertainty_vs_negative_gap": spearman(score, -gap, seed=seed),
        "rho_uncertainty_vs_rank": spearman(score, rank, seed=seed),
        "auroc_low_gap": auroc_low(score, gap),
        "auroc_high_rank": auroc_high(score, rank),
        "auroc_wrong_caption": auroc(score, rank > 1),
    }
    if norm is not None and len(score) > 3:
        found["rho_uncertainty_vs_negative_gap_given_norm"] = partial_spearman(score, -gap, norm, seed=seed)
        found["rho_uncertainty_vs_rank_given_norm"] = partial_spearman(score, rank, norm, seed=seed)
    return found


def write_retrieval(
    config: Exp5FullConfig, run: MonteCarloRun, path: str | Path, result: RetrievalResult, reports: Path, session: str
) -> Path:
    """``exp5_full_retrieval.npz`` of the model, and its part of the overall summary under ``retrieval``."""
    folder = reports / FOLDER
    write_npz(
        folder / file_name(run.encoder) / "exp5_full_retrieval.npz",
        paths=np.array(run.ids),
        gap=result.gap,
        rank=result.rank,
        uncertainty=run.scores("trace_pre", config.passes)[0],
    )
    found: dict[str, Any] = {
        "file": Path(path).name,
        "recall_at_1": result.recall.as_dict(),
        "mean_rank": float(result.rank.mean()),
        "scores": {name: {key: e.as_dict() for key, e in table.items()} for name, table in result.figures.items()},
        **origin(config, run),
    }
    overall = folder / "exp5_full_overall_summary.json"
    add_to_json(overall, session, "retrieval", run.encoder, found)
    return overall
