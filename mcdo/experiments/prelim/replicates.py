"""Loss, tower or site, with replicates: do the differences between losses and towers outlast another training?

One training for each loss and tower cannot tell what the loss did from what the seed did. Here each of the four is
trained with several seeds (``make replicates``), the encoder is the random effect, and a contrast between losses,
between towers, or between the perturbed sites has the spread of the trainings within a loss and tower as its error,
with the noise of the images in it. The protocol is that of prelim_loss_or_site: the same images, T, K, p and roles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.encoders.recipe import replicate_folder
from mcdo.errors import McdoError
from mcdo.estimators import TRACES
from mcdo.experiments.prelim.grid import ENCODERS, FACTORS, SITES, Made, Measured, figures, outcomes
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Logits, Passes, Request, Settings, Subject, View
from mcdo.schema import OpenRecord, read_json
from mcdo.stats import Difference, Estimate, Sample, corrected
from mcdo.stats.crossed import crossed_contrast

OPTION = "--replicates"
JUDGED = "trace_pre"
NONE_GIVEN = f"no trainings are given: make replicates trains them, {OPTION}=FOLDER names them"
Array = NDArray[np.float64]


class _Configuration(OpenRecord, frozen=True):
    model_cfg: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """One trained encoder: what it was made with, its seed, and the model's key."""

    made: Made
    seed: int
    model: str


@dataclass(frozen=True)
class OutcomeOfTrainings:
    """One figure over the trainings.

    Attributes:
        between: contrasts of loss, tower and their interaction, marginal over sites; Holm over the three.
        within: contrasts between sites; Holm over the three.
        training_sd: spread between trainings of one loss and tower, marginal over sites; χ² over the trainings.

    """

    between: Mapping[str, Difference]
    within: Mapping[str, Difference]
    training_sd: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {"effects": {**self.between, **self.within}, "sd_between_trainings": self.training_sd}


@dataclass(frozen=True)
class ReplicatesResult:
    """By score and outcome; and every figure of every training and site, by score, outcome and name."""

    trainings: tuple[Training, ...]
    outcomes: Mapping[str, Mapping[str, OutcomeOfTrainings]]
    figures: Mapping[str, Mapping[str, Mapping[str, Estimate]]]


@dataclass(frozen=True)
class Replicates(Experiment["ReplicatesResult | None"]):
    """N images, K trials at one T for every training and site, and one trial at every degradation."""

    key = "prelim_replicates"
    name = "prelim_replicates"
    phase = "prelim"
    files = Files(summary="prelim_replicates_summary.json")
    quick = {"n": 60, "passes": 8, "trials": 2, "resamples": 200}
    published = TRACES

    n: int = 300
    passes: int = 64
    trials: int = 3
    folder_of_trainings: str = ""
    degradations: tuple[str, ...] = ("blur:4%", "blur:10%")
    resamples: int = 1000

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"folder_of_trainings": settings.own_data.get(OPTION, "")}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        """All trainings together, whatever the models asked for."""
        found = trainings(Path(settings.own_data[OPTION])) if OPTION in settings.own_data else ()
        return (Subject("all_trainings", tuple(each.model for each in found)),)

    @property
    def all(self) -> tuple[Training, ...]:
        return trainings(Path(self.folder_of_trainings)) if self.folder_of_trainings else ()

    @property
    def outcomes(self) -> tuple[str, ...]:
        return outcomes(self.degradations)

    def shown(self, degradation: str | None = None) -> Images:
        return Images(self.n, "digits", degradation)

    def run(self, model: str, site: str, degradation: str | None = None) -> Passes:
        """K trials of the clean images, one of degraded ones."""
        trials = self.trials if degradation is None else 1
        protocol = self.protocol((self.passes,), trials, self.dropout.at(*SITES[site]))
        return Passes(model, self.shown(degradation), protocol)

    def logits(self, model: str) -> Logits:
        return Logits(model, self.shown())

    def requests(self, about: View) -> Iterable[Request[Any]]:
        for each in self.all:
            yield self.logits(each.model)
            for site in SITES:
                yield self.run(each.model, site)
                yield from (self.run(each.model, site, degradation) for degradation in self.degradations)

    def compute(self, inputs: Inputs) -> ReplicatesResult | None:
        found = self.all
        if not found:
            return None
        origins = inputs.images(self.shown()).origins
        sample = Sample(len(origins), origins, self.seed, self.resamples)
        results: dict[str, dict[str, OutcomeOfTrainings]] = {}
        told: dict[str, dict[str, dict[str, Estimate]]] = {}
        for score in self.reported:
            drawn = [[figures(self._measured(inputs, e, site), score, sample) for site in SITES] for e in found]
            cells = {o: np.stack([[at[o] for at in of] for of in drawn], axis=0) for o in self.outcomes}
            results[score] = {o: over_trainings(found, grid, sample.n) for o, grid in cells.items()}
            told[score] = {
                o: {
                    f"{Path(each.model).name}/{site}": sample.estimate(grid[e, s, 0], grid[e, s, 1:])
                    for e, each in enumerate(found)
                    for s, site in enumerate(SITES)
                }
                for o, grid in cells.items()
            }
        return ReplicatesResult(found, results, told)

    def _measured(self, inputs: Inputs, training: Training, site: str) -> Measured:
        degraded = {each: inputs[self.run(training.model, site, each)] for each in self.degradations}
        logits = inputs[self.logits(training.model)]["logits"]
        return Measured.of(inputs[self.run(training.model, site)], degraded, logits, training.made[0], self.reported)

    def claims(self) -> Sequence[Claim[ReplicatesResult | None]]:
        judged = [outcome for outcome in self.outcomes if outcome != "reliability"]
        return [
            *(_below("softmax_above_sigmoid", outcome, "between", "loss: sigmoid - softmax") for outcome in judged),
            *(_below("mlp_below_all", outcome, "within", "site: mlp - all") for outcome in self.outcomes),
        ]

    def summary(self, result: ReplicatesResult | None) -> Mapping[str, Any]:
        if result is None:
            return {}
        return {
            "trainings": {Path(each.model).name: {"made": "/".join(each.made), "seed": each.seed} for each in self.all},
            "roles": SITES,
            "scores": {
                score: {
                    outcome: {**of.as_dict(), "figures": result.figures[score][outcome]}
                    for outcome, of in table.items()
                }
                for score, table in result.outcomes.items()
            },
            "intervals": "of contrasts over the trainings and the originals; of single figures over the originals",
            "correction": "Holm over the three contrasts between trainings, and over the three between sites, of an "
            "outcome",
        }


def trainings(folder: Path) -> tuple[Training, ...]:
    """The trainings below ``folder``: as many seeds of every loss and tower.

    Raises:
        McdoError: for none, for one of a loss and tower alone, for other seeds of one than of another, and for a folder
            whose encoder has another loss than its name says.

    """
    seeds = {
        made: sorted(
            number
            for card in folder.glob(f"{key}-*/card.json")
            if (number := _seed(card.parent.name.removeprefix(f"{key}-"))) >= 0
            and card.parent == replicate_folder(key, number, folder)
        )
        for made, key in ENCODERS.items()
    }
    first = next(iter(seeds.values()))
    if len(first) < 2 or any(each != first for each in seeds.values()):
        held = "; ".join(f"{ENCODERS[made]}: {', '.join(map(str, each)) or 'none'}" for made, each in seeds.items())
        raise McdoError(f"{folder}: the same two or more seeds of each encoder are wanted, there are {held}")
    found = []
    for made, key in ENCODERS.items():
        for seed in seeds[made]:
            place = replicate_folder(key, seed, folder)
            if _loss(place) != made[0]:
                raise McdoError(f"{place} holds an encoder of another loss than {made[0]}; make replicates trains it")
            found.append(Training(made, seed, f"local-dir:{place}"))
    return tuple(found)


def _seed(text: str) -> int:
    """A seed in digits, -1 for the name of something else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _loss(place: Path) -> str:
    """As the configuration says it: the sigmoid loss has a bias."""
    config = read_json(place / "open_clip_config.json", _Configuration, "make replicates writes it")
    return "sigmoid" if "init_logit_bias" in config.model_cfg else "softmax"


def over_trainings(found: Sequence[Training], figure: Array, n: int) -> OutcomeOfTrainings:
    """Contrasts of one figure ``[E, sites, 1 + R]``: of the sample first, then of each resample of ``n`` originals."""
    kinds = ["/".join(each.made) for each in found]
    E = len(found)
    sign = {
        "loss: sigmoid - softmax": [1 if each.made[0] == "sigmoid" else -1 for each in found],
        "tower: timm - mha": [1 if each.made[1] == "timm" else -1 for each in found],
    }
    sign["loss x tower"] = [a * b for a, b in zip(*sign.values(), strict=True)]
    marginal = figure.mean(axis=1)
    between = {
        name: crossed_contrast(marginal[:, 0], marginal[:, 1:].T, 2 * np.array(signs) / E, kinds, n)
        for name, signs in sign.items()
    }
    within = {}
    for i, j in itertools.combinations(range(len(FACTORS["site"])), 2):
        apart = figure[:, j] - figure[:, i]
        name = f"site: {FACTORS['site'][j]} - {FACTORS['site'][i]}"
        within[name] = crossed_contrast(apart[:, 0], apart[:, 1:].T, np.full(E, 1 / E), kinds, n)
    return OutcomeOfTrainings(corrected(between), corrected(within), _spread(marginal[:, 0], kinds))


def _spread(values: Array, kinds: Sequence[str]) -> Estimate:
    """Pooled standard deviation within kinds, with the χ² interval of normal values; n is the number of trainings."""
    groups = [values[np.array(kinds) == kind] for kind in dict.fromkeys(kinds)]
    freedom = len(values) - len(groups)
    variance = sum(float(np.square(group - group.mean()).sum()) for group in groups) / freedom
    low, high = (variance * freedom / scipy.stats.chi2.ppf(share, freedom) for share in (0.975, 0.025))
    return Estimate(math.sqrt(variance), math.sqrt(low), math.sqrt(high), len(values))


def _below(claim: str, outcome: str, where: str, contrast: str) -> Claim[ReplicatesResult | None]:
    def found(result: ReplicatesResult) -> Difference:
        of: Mapping[str, Difference] = getattr(result.outcomes[JUDGED][outcome], where)
        return of[contrast]

    def beside(result: ReplicatesResult | None) -> str:
        if result is None:
            return NONE_GIVEN
        spread = result.outcomes[JUDGED][outcome].training_sd
        return f"{contrast}, over {len(result.trainings)} trainings, whose sd within a loss and tower is {spread}"

    return Claim(
        f"{claim}/{outcome}",
        lambda r: None if r is None else found(r).estimate,
        below=0.0,
        beside=beside,
        p_holm=lambda r: math.nan if r is None else found(r).p_holm,
    )
