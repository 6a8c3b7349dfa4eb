"""The study: every arm and seed trained once, then everything computed from logits on the same test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mcdo.harness import Claim, Experiment, Files, Inputs, Request, Settings, Subject, View, first_model
from mcdo.stats import Estimate
from mcdo.studies.subtasks.config import ARMS, Arm, DigitSizes, Sizes, Source, Training
from mcdo.studies.subtasks.evaluate import OPTIONS, Contrast, Evaluation, evaluate
from mcdo.studies.subtasks.labels import COMPARED_SUBTASKS, META_SUBTASKS
from mcdo.studies.subtasks.report import as_json, markdown, reliability_panel, triage_panel
from mcdo.studies.subtasks.requests import CLASS, DropoutPasses, LinearProbe, Network, Outputs, SeenSplits
from mcdo.studies.subtasks.runs import LINEAR, Runs

if TYPE_CHECKING:
    from mcdo.report.figures import Panel

CIFAR10 = "--cifar10"


@dataclass(frozen=True)
class SubtaskStudy(Experiment[Evaluation]):
    """S2's protocol: two options and a control, what subtasks add, calibration, triage."""

    key = "subtasks"
    name = "subtasks"
    phase = "subtasks"
    folder = "studies"
    perturbs = False
    files = Files(summary="subtasks.json", figure="subtasks.png")
    sized = {}  # a study of its own size
    quick = {
        "cifar10": Sizes(train=4000, validation=1000, calibration=1000, test=2000),
        "digits": DigitSizes(train=399, rounds=2),
        "resamples": 200,
        "few_resamples": 20,
        "permutations": 500,
        "max_epochs": 10,
        "passes": 6,
    }

    seeds: tuple[int, ...] = (0, 1, 2)
    cifar10: Sizes = field(default_factory=Sizes)
    digits: DigitSizes = field(default_factory=DigitSizes)
    arms: tuple[Arm, ...] = ARMS
    patience: int = 4
    max_epochs: int = 30
    passes: int = 25
    bins: int = 15
    edge_threshold: int = 50  # of 255; the document does not give it
    review_std: float = 0.35
    accept_std: float = 0.25
    accept_confidence: float = 0.90
    resamples: int = 1000
    few_resamples: int = 200  # of statistics that are not sums over images
    permutations: int = 10_000
    cifar10_folder: str = ""
    images: str = "digits"

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"cifar10_folder": settings.own_data.get(CIFAR10, ""), "images": settings.images}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        """One model; findings hold for the digits only, so CIFAR-10 is another subject."""
        model = first_model(settings.models)
        return (Subject(f"{model} on CIFAR-10" if CIFAR10 in settings.own_data else model, (model,)),)

    @property
    def source(self) -> Source:
        return Source(self.seed, self.digits, self.cifar10, self.cifar10_folder, self.images)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        yield self.seen(about)
        yield self.linear_probe(about)
        for seed in self.seeds:
            for name in (*META_SUBTASKS, *COMPARED_SUBTASKS):
                yield self.outputs(about, "A", seed, name)
            for arm in self.arms:
                yield from (Outputs(about.model, head) for head in self.network(about, arm.name, seed).heads)
                yield self.outputs(about, arm.name, seed)
            for name in OPTIONS:
                yield self.dropout_passes(about, name, seed)

    def seen(self, about: View) -> SeenSplits:
        return SeenSplits(about.model, self.source, self.edge_threshold)

    def network(self, about: View, arm: str, seed: int, target: str = CLASS) -> Network:
        """The meta-learner of an arm, or one of its heads."""
        of = next(each for each in self.arms if each.name == arm)
        training = Training(of.batch, of.lr, self.patience, self.max_epochs)
        return Network(about.model, self.seen(about), target, of.inputs if target == CLASS else "none", training, seed)

    def outputs(self, about: View, arm: str, seed: int, target: str = CLASS) -> Outputs:
        return Outputs(about.model, self.network(about, arm, seed, target))

    def dropout_passes(self, about: View, arm: str, seed: int) -> DropoutPasses:
        return DropoutPasses(about.model, self.network(about, arm, seed), self.passes)

    def linear_probe(self, about: View) -> LinearProbe:
        return LinearProbe(about.model, self.seen(about))

    def compute(self, inputs: Inputs) -> Evaluation:
        return evaluate(Runs(self, inputs))

    def claims(self) -> Sequence[Claim[Evaluation]]:
        """Comparisons of arms are judged by an interval that covers other images and other seeds, and by Holm's p."""
        return (
            # the positive control: unless true labels are seen to help, that predicted ones do not says little
            _lower("true_subtask_labels_lower_the_nll", "A_true_subtasks", "A_no_subtasks", "nll"),
            _higher("b_is_more_accurate_than_a", "B", "A", "accuracy"),
            _lower("a_is_better_calibrated_than_b", "B", "A", "ece"),
            _higher("the_misscaled_control_is_less_accurate_than_a", "A", "control", "accuracy"),
            _higher("the_misscaled_control_is_less_accurate_than_b", "B", "control", "accuracy"),
            _higher("subtask_labels_add_accuracy", "A", "A_no_subtasks", "accuracy"),
            _higher("subtask_probabilities_add_accuracy", "A_probabilities", "A_no_subtasks", "accuracy"),
            _higher("the_system_is_more_accurate_than_a_linear_probe", "A", LINEAR, "accuracy"),
            _lower("temperature_lowers_the_nll_of_a", "A scaled", "A unscaled", "nll"),
            _lower("temperature_lowers_the_ece_of_a", "A scaled", "A unscaled", "ece"),
            _lower("temperature_lowers_the_ece_of_b", "B scaled", "B unscaled", "ece"),
            _contrast("edges_are_read_better_than_variance", lambda e: e.edges_over_variance, above=0.0),
            Claim("accepted_images_are_more_often_right", lambda e: e.accept_over_rest["A"], above=0.0),
            *(
                Claim(f"the_{name}_head_beats_the_most_frequent_label", partial(_gain, name), above=0.0)
                for name in META_SUBTASKS
            ),
            *(
                Claim(f"the_{name}_head_is_above_60_per_cent", partial(_accuracy, name), above=0.6)
                for name in META_SUBTASKS
            ),
        )

    def summary(self, result: Evaluation) -> Mapping[str, Any]:
        return as_json(result)

    def documents(self, inputs: Inputs, result: Evaluation) -> Mapping[str, Any]:
        return {"subtasks.md": markdown(result, inputs.model)}

    def title(self) -> str:
        return "is a stated confidence to be trusted?"

    def panels(self, inputs: Inputs, result: Evaluation) -> Sequence[Panel]:
        """Reliability of A before and after temperature, and accuracy inside each triage class."""
        return partial(reliability_panel, found=result), partial(triage_panel, found=result)


def _contrast(
    name: str, of: Callable[[Evaluation], Contrast], above: float | None = None, below: float | None = None
) -> Claim[Evaluation]:
    return Claim(
        name,
        lambda e: of(e).judged,
        above=above,
        below=below,
        beside=lambda e: f"over images {of(e).difference}, over seeds {of(e).over_seeds}",
        p_holm=lambda e: of(e).p_holm,
    )


def _higher(name: str, first: str, second: str, metric: str) -> Claim[Evaluation]:
    return _contrast(name, lambda e: e.contrast(first, second, metric), above=0.0)


def _lower(name: str, first: str, second: str, metric: str) -> Claim[Evaluation]:
    return _contrast(name, lambda e: e.contrast(first, second, metric), below=0.0)


def _gain(subtask: str, evaluation: Evaluation) -> Estimate:
    return evaluation.heads[subtask].gain


def _accuracy(subtask: str, evaluation: Evaluation) -> Estimate:
    return evaluation.heads[subtask].accuracy
