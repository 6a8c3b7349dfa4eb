"""Intervals about scores: what they follow, what they are worth, how well they repeat, whether two say the same."""

from __future__ import annotations

from figures import EVERY, INDEPENDENT, RISE, Draw, Found, Group
from populations import LATENT, TRAITS, Population, normal_spearman

from mcdo.stats import (
    advantages,
    agreement,
    auroc,
    auroc_differences,
    auroc_high,
    partial_spearman,
    rank_matrix,
    rank_relations,
    reliability,
    spearman,
    spearman_differences,
)
from mcdo.stats.attenuation import disattenuated_spearman, trial_spearman
from mcdo.stats.selective import fpr95, risk_areas


def _associations(draw: Draw) -> Found:
    of, how = draw.sample, {**draw.how, **draw.noise}
    scores = {"score": of.scores, "rival": of.rival}
    areas = auroc_differences(scores, "rival", draw.high, **draw.noise)
    return {
        "Spearman": spearman(of.scores, of.target, **how),
        "partial Spearman": partial_spearman(of.scores, of.target, of.norm, **how),
        "difference of Spearman": spearman_differences(scores, "rival", of.target, **how)["score"].estimate,
        "AUROC, 1 in 5 positive": auroc(of.scores, draw.high, **draw.noise),
        "AUROC, 1 in 10 positive": auroc_high(of.scores, of.target, **draw.noise),
        "difference of AUROC": areas["score"].estimate,
    }


def _relations(draw: Draw) -> Found:
    """A baseline may point either way: ``turned`` points the other way, ``idle`` follows nothing."""
    of, how = draw.sample, {**draw.how, **draw.noise}
    found = rank_relations({"score": of.scores}, {"target": of.target}, given=of.norm, **how)["score", "target"]
    ahead = advantages(
        {"score": of.scores}, {"turned": -of.rival, "idle": draw.idle}, follows={"target": of.target},
        detects={"high": draw.high}, **how,
    )  # fmt: skip
    return {
        "relation": found.rho,
        "relation given the norm": found.given,
        "ahead of a baseline, ρ": ahead["score", "turned", "target"].estimate,
        "ahead of a baseline, AUROC": ahead["score", "turned", "high"].estimate,
        "ahead of an idle one, ρ": ahead["score", "idle", "target"].estimate,
        "ahead of an idle one, AUROC": ahead["score", "idle", "high"].estimate,
    }


def _selective(draw: Draw) -> Found:
    """One image in five is an error."""
    score, how = draw.sample.scores, {**draw.how, **draw.noise}
    found = risk_areas(score, draw.high, **how)
    return {"AURC": found["aurc"], "excess AURC": found["excess_aurc"], "AUGRC": found["augrc"]}


def _foreign(draw: Draw) -> Found:
    """The second half of the images is of another kind, with higher scores."""
    half, held = len(draw.sample.own) // 2, draw.origins["origins"]
    units = {} if held is None else {"known_origins": held[:half], "foreign_origins": held[half:]}
    scores = draw.sample.scores
    return {"FPR95": fpr95(scores[:, :half], scores[:, half:] + 2 * RISE, **units, **draw.resampling)}


def _reliability(draw: Draw) -> Found:
    found = reliability(draw.sample.scores, **draw.how)
    named = {"median ρ": "spearman", "SNR": "snr", "corrected SNR": "snr_corrected", "ICC": "icc"}
    return {name: found.estimate(key) for name, key in named.items()}


def _among_scores(draw: Draw) -> Found:
    how = {**draw.how, **draw.noise}
    matrix = rank_matrix({"score": draw.sample.scores, "rival": draw.rivals}, **how)
    return {
        "rank matrix, raw": matrix.pair("raw", "score", "rival"),
        "rank matrix, disattenuated": matrix.pair("disattenuated", "score", "rival"),
        "mean ρ of trials": matrix.reliability["score"],
        "difference of mean ρ": matrix.reliability_difference["score", "rival"].estimate,
        "trial by trial ρ": trial_spearman(draw.sample.scores, draw.rivals, **how),
    }


def _disattenuated(draw: Draw) -> Found:
    return {"disattenuated ρ": disattenuated_spearman(draw.sample.scores, draw.sample.target, **draw.how)}


def _agreement(draw: Draw) -> Found:
    """Where trials share noise it is that of the second: a first order beside Monte Carlo."""
    of = draw.sample
    found = agreement(4 + of.rival + draw.independent, 4 + of.scores, **draw.how, shared_noise=draw.shared)
    return {
        "agreement, median ratio": found.ratio,
        "agreement, Spearman": found.spearman,
        "agreement, disattenuated": found.corrected,
    }


def _beside_noise_free(population: Population, K: int) -> float:
    """ρ of a normal score averaged over K trials with a noise-free one."""
    r = LATENT[TRAITS.index("own"), TRAITS.index("rival")]
    return normal_spearman(float(r) * (1 + (1 - population.icc) / population.icc / K) ** -0.5)


GROUPS = (
    Group("associations", _associations, INDEPENDENT),
    Group("associations, noise shared by trials", _associations, ("shared_noise",), (3, 5, 10), noise_free=True),
    Group("relations and advantages", _relations, INDEPENDENT),
    Group(
        "relations and advantages, noise shared by trials", _relations, ("shared_noise",), (3, 5, 10), noise_free=True
    ),
    Group("what a score is worth", lambda draw: {**_selective(draw), **_foreign(draw)}, INDEPENDENT),
    Group("what a score is worth, noise shared by trials", _selective, ("shared_noise",), (5, 10), noise_free=True),
    Group(
        "reliability", _reliability, EVERY, (3, 5, 10),
        {
            "median ρ": lambda population, K: population.spearman(K),
            "SNR": lambda population, K: population.snr(K),
            "corrected SNR": lambda population, K: population.snr(K) - 1 / K,
            "ICC": lambda population, K: population.icc,
        },
        complete=True,
    ),
    Group(
        "several scores", _among_scores, INDEPENDENT, (3, 5),
        {"rank matrix, disattenuated": lambda population, K: population.latent_spearman("own", "rival")},
    ),
    Group(
        "several scores, noise shared by trials", _among_scores, ("shared_noise",), (3, 5, 10),
        {
            "rank matrix, raw": lambda population, K: population.latent_spearman("own", "rival"),
            "rank matrix, disattenuated": lambda population, K: population.latent_spearman("own", "rival"),
            "mean ρ of trials": lambda population, K: population.mean_spearman(),
            "difference of mean ρ": lambda population, K: 0.0,
            "trial by trial ρ": lambda population, K: population.across_spearman("own", "rival"),
        },
        complete=True,
    ),
    Group(
        "one score without its noise", _disattenuated, EVERY, (3, 5, 10),
        {"disattenuated ρ": lambda population, K: population.latent_spearman("own", "target")},
        complete=True,
    ),
    Group(
        "agreement of two estimators", _agreement, INDEPENDENT, (3, 5),
        {"agreement, disattenuated": lambda population, K: population.latent_spearman("own", "rival")},
    ),
    Group(
        "agreement of two estimators, noise shared by trials of one", _agreement, ("shared_noise",), (3, 5, 10),
        {
            "agreement, median ratio": lambda population, K: 1.0,
            "agreement, Spearman": _beside_noise_free,
            "agreement, disattenuated": lambda population, K: population.latent_spearman("own", "rival"),
        },
        complete=True,
    ),
)  # fmt: skip
