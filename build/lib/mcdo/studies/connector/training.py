"""Training the small connector: the language model on text, then the projector alone, as in the published stage 1.

Stage ``language``: the language model reads the captions. For every other batch the placeholders hold embeddings of
random words of the caption that follows, with noise; otherwise there are none. So it learns to write captions, and to
use what stands in the places of an image, without ever seeing one. Stage ``connector``: the language model and the
vision tower are frozen, and the projector learns to say in those places what the image shows.

One thread and keyed random numbers: the order of an epoch follows from (seed, stage, epoch), so a killed training that
is taken up from its last epoch ends with the very weights of an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mcdo.store import Store
from mcdo.store.fingerprint import measuring_code
from mcdo.studies.connector.ablation import token_cross_entropy
from mcdo.studies.connector.coverage import Coverage, check_coverage
from mcdo.studies.connector.preflight import check_placeholders
from mcdo.studies.connector.samples import IGNORED, Sample, Wording, collate, without_image
from mcdo.studies.connector.tiny import TinyConnector
from mcdo.threads import one_thread

Stage = Literal["language", "connector"]
Arrays = dict[str, NDArray[Any]]
STAGES: tuple[Stage, ...] = ("language", "connector")


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW without weight decay, linear warm-up and cosine to zero in each stage. Noise is relative to the words'."""

    language_epochs: int = 8
    connector_epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: int = 30
    noise: float = 0.5


@dataclass(frozen=True)
class Epoch:
    """What an epoch left: its stage and number, mean loss per label token in nats, and what it showed."""

    stage: Stage
    epoch: int
    loss: float
    coverage: Coverage

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> Epoch:
        """From what ``dataclasses.asdict`` gave."""
        return cls(held["stage"], held["epoch"], held["loss"], Coverage(**held["coverage"]))

    def as_dict(self) -> dict[str, Any]:
        """For people: the coverage with its shares and verdict."""
        return {"stage": self.stage, "epoch": self.epoch, "loss": self.loss, **self.coverage.as_dict()}


def train_stage(
    stage: Stage,
    model: TinyConnector,
    samples: Sequence[Sample],
    tokens: Callable[[], Tensor],
    wording: Wording,
    config: TrainingConfig,
    seed: int,
    *,
    store: Store | None = None,
    identity: Mapping[str, Any] | None = None,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train one stage in place, from its last finished epoch if the store holds one.

    Args:
        stage: which of the two.
        model: is changed; left in evaluation mode.
        samples: of all training items.
        tokens: makes what the projector is given for each of them, [N, V, D]; not called where nothing needs it.
        wording: of the samples.
        config: hyper-parameters.
        seed: of the order of items and of all noise.
        store: where the state after each epoch is kept.
        identity: what else decides the weights, for the store: data, encoder, initial weights.
        after_epoch: is told of each epoch after it is kept.

    Raises:
        McdoError: before the first step, if ``max_seq_len`` cuts image tokens or too many samples.

    """
    for sample in samples:
        check_placeholders(sample, wording)
    check_coverage(Coverage.of(samples, wording.max_seq_len))
    trained = model.lm if stage == "language" else model.projector
    run = _Run(stage, model, trained, config, seed, -(-len(samples) // config.batch_size))
    facts = {"kind": "connector", "code": measuring_code("mcdo.studies.connector"), "stage": stage}
    key = Store.key({**facts, "config": vars(config), "seed": seed, **(identity or {})})
    history = run.restore(store.get(key) if store else None)
    epochs = config.language_epochs if stage == "language" else config.connector_epochs
    shown = tokens() if stage == "connector" and len(history) < epochs else torch.empty(0)
    with one_thread(), tqdm(total=epochs, initial=len(history), desc=stage, unit="epoch", disable=None) as bar:
        for epoch in range(len(history), epochs):
            history.append(run.epoch(epoch, epochs, samples, shown, wording))
            if store is not None:
                store.put(
                    key,
                    run.state(),
                    {"history": [asdict(p) for p in history], "label": {"protocol": f"connector {stage}"}},
                )
            bar.set_postfix(loss=f"{history[-1].loss:.3f}")
            bar.update()
            if after_epoch is not None:
                after_epoch(history[-1])
    return history


class _Run:
    """The optimizer of a stage, and the epochs it makes."""

    def __init__(
        self, stage: Stage, model: TinyConnector, trained: nn.Module, config: TrainingConfig, seed: int, steps: int
    ) -> None:
        self.stage, self.model, self.trained, self.config, self.seed, self.steps = (
            stage,
            model,
            trained,
            config,
            seed,
            steps,
        )
        self.optimizer = torch.optim.AdamW(trained.parameters(), lr=config.learning_rate, weight_decay=0.0)

    def epoch(self, epoch: int, epochs: int, samples: Sequence[Sample], tokens: Tensor, wording: Wording) -> Epoch:
        """Every sample once, in the order of this epoch."""
        rng = np.random.default_rng([self.seed, STAGES.index(self.stage), epoch])
        order = rng.permutation(len(samples))
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        total, counted = 0.0, 0
        seen: list[Sample] = []
        self.model.requires_grad_(False)
        self.trained.requires_grad_(True)
        for step in range(self.steps):
            rows = order[step * self.config.batch_size : (step + 1) * self.config.batch_size]
            chosen = [samples[i] for i in rows]
            self._set_rate(epoch * self.steps + step, epochs * self.steps)
            losses, labelled = self._losses(step, chosen, tokens, rows, wording, noise)
            loss = losses.sum() / labelled.sum().clamp(min=1)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            total, counted, seen = total + float(losses.detach().sum()), counted + int(labelled.sum()), seen + chosen
        self.model.requires_grad_(False)
        return Epoch(self.stage, epoch, total / max(1, counted), Coverage.of(seen, wording.max_seq_len))

    def _losses(
        self,
        step: int,
        chosen: list[Sample],
        tokens: Tensor,
        rows: NDArray[Any],
        wording: Wording,
        noise: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        model, device = self.model, self.model.device
        if self.stage == "connector":
            return token_cross_entropy(model, collate(chosen, wording.pad_id, device), model.projector(tokens[rows]))
        if step % 2:
            chosen = [without_image(sample, model.image_token_id) for sample in chosen]
            return token_cross_entropy(model, collate(chosen, wording.pad_id, device), None)
        words = said_in_words(model, chosen, self.config.noise, noise)
        return token_cross_entropy(model, collate(chosen, wording.pad_id, device), words)

    def _set_rate(self, step: int, steps: int) -> None:
        warm = min(1.0, (step + 1) / self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    def state(self) -> Arrays:
        """Weights and moments by parameter."""
        found = {f"weight/{name}": value for name, value in self.trained.named_parameters()}
        for name, value in self.trained.named_parameters():
            held = self.optimizer.state[value]
            found |= {f"{what}/{name}": held[what] for what in ("exp_avg", "exp_avg_sq", "step")}
        return {name: value.detach().cpu().numpy().copy() for name, value in found.items()}

    def restore(self, kept: tuple[Arrays, dict[str, Any]] | None) -> list[Epoch]:
        """Take up what :meth:`state` gave; returns the epochs that led there."""
        if kept is None:
            return []
        arrays, facts = kept
        with torch.no_grad():
            for name, value in self.trained.named_parameters():
                value.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
                state = {what: torch.from_numpy(arrays[f"{what}/{name}"].copy()) for what in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[value] = {
                    **{what: moment.to(value.device) for what, moment in state.items()},
                    "step": torch.from_numpy(arrays[f"step/{name}"].copy()),
                }
        return [Epoch.of(each) for each in facts["history"]]


def said_in_words(model: TinyConnector, samples: Sequence[Sample], noise: float, generator: torch.Generator) -> Tensor:
    """Embeddings [B, V, E] of words drawn from each sample's answer, with noise of ``noise`` × their spread."""
    drawn = []
    for sample in samples:
        words = torch.tensor([label for label in sample.labels if label != IGNORED][:-1] or [sample.input_ids[-1]])
        drawn.append(words[torch.randint(len(words), (model.tokens_per_image,), generator=generator)])
    said = model.embed(torch.stack(drawn).to(model.device))
    spread = noise * said.detach().std()
    return said + spread * torch.randn(said.shape, generator=generator).to(said)
