"""What a Monte Carlo measurement yields: per-image scores at every T, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcdo.arguments import whole
from mcdo.errors import McdoError, nearest
from mcdo.estimators.score_table import BUILT_IN, INPUTS, SCORES, Score, further
from mcdo.perturbation import Perturbation

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class MonteCarloConfig:
    """The protocol of a measurement; its fields, with the encoder and the images, decide every number.

    Attributes:
        dropout: the perturbation.
        passes: the T at which scores are taken, ascending; one run of ``passes[-1]`` passes gives them all.
        trials: K, independent repetitions.
        seed: seed of the masks.
        geometry: the T (among ``passes``) at which scores that need the passes themselves are taken.
        scores: registered scores that are taken beside mcdo's own; those of ``scores`` that follow from others, or are
            mcdo's, are left out here.

    """

    dropout: Perturbation
    passes: tuple[int, ...] = (4, 16, 64)
    trials: int = 10
    seed: int = 42
    geometry: tuple[int, ...] = ()
    scores: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.passes or list(self.passes) != sorted(set(self.passes)) or self.passes[0] < 2:
            raise McdoError(f"passes = {self.passes}: name numbers of passes in ascending order, each at least 2")
        if self.trials < 1:
            raise McdoError(f"trials = {self.trials}: at least one is needed (two or more for reliability)")
        if not set(self.geometry) <= set(self.passes):
            raise McdoError(f"geometry = {self.geometry} must be among passes = {self.passes}")
        object.__setattr__(self, "scores", further(self.scores))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; scores from outside with a fingerprint of their code."""
        codes = {name: SCORES.find(name).code for name in self.scores}
        return {**asdict(self), "dropout": self.dropout.as_dict(), "scores": codes}

    def taken_at(self, name: str) -> tuple[int, ...]:
        """The T at which a score is taken while passes are made; none for one that this run does not take."""
        score = SCORES.find(name) if name in self.scores else BUILT_IN.get(name)
        if score is None or score.while_measuring is None:
            return ()
        return self.geometry if score.while_measuring == "passes" else self.passes


@dataclass(frozen=True, eq=False)
class EncoderRun:
    """What every measurement of one encoder on one image set knows, whatever the estimator.

    Attributes:
        encoder: the encoder's key.
        ids: image ids, in the order of the columns of every score.
        origins: the sampled unit behind each image, ``[N]``, from the image set and never from the store: they decide
            no score, so what is stored does not hold them.
        features: float32 ``[N, D]``, deterministic features before normalisation; read-only, as all arrays of a run.
        sites: requested sites as (name, role); each was checked to be alive.
        provenance: weights, device, versions and the like, for result files.

    """

    encoder: str
    ids: tuple[str, ...]
    origins: tuple[str, ...]
    features: NDArray[np.float32]
    sites: tuple[tuple[str, str], ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for held in vars(self).values():
            if isinstance(held, np.ndarray):  # scores follow from them, whenever they are asked for
                held.setflags(write=False)

    @property
    def feature_norm(self) -> Scores:
        """float64 ``[N]``: norm of the deterministic features, the control beside every trace_pre."""
        norm: Scores = np.linalg.norm(self.features.astype(np.float64), axis=1)
        return norm

    def _derived(self, score: Score, lookup: Callable[[str], Scores], trials: int) -> Scores:
        """A score that follows from others and the features, float64 ``[K, N]``."""
        if "scores" in score.definitions:
            value = score.definitions["scores"](RunView(self, lookup))
        else:
            value = score.definitions["features"](self.features.astype(np.float64))
        try:
            return np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), (trials, len(self.ids))))
        except (TypeError, ValueError):
            said = f"gave {np.shape(value)} for {trials} trials of {len(self.ids)} images"
            raise McdoError(f"the score {score.name} {said}; it must give [K, N] or [N]") from None

    def _said(self, protocol: str) -> str:
        shown = f"{self.encoder}, {len(self.ids)} images of {len(set(self.origins))} originals, {len(self.sites)} sites"
        return f"<{type(self).__name__}: {shown}, {protocol}>"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that were perturbed."""
        return tuple(dict.fromkeys(role for _, role in self.sites))


class RunView:
    """What a score is computed from that follows from others: :meth:`scores`, and the deterministic features.

    Attributes:
        scores: gives another score of the run by name, float64 ``[K, N]``.
        features: float64 ``[N, D]``, before normalisation.
        feature_norm: float64 ``[N]``.

    """

    def __init__(self, run: EncoderRun, scores: Callable[[str], Scores]) -> None:
        self.scores, self.feature_norm = scores, run.feature_norm
        self.features: Scores = run.features.astype(np.float64)


Key = TypeVar("Key")


def _chosen(
    held: Mapping[Key, Scores], trials: slice, columns: NDArray[np.integer] | slice = slice(None)
) -> dict[Key, Scores]:
    """Some trials and images, laid out as if measured alone: sums over a strided array differ in their last bits."""
    return {key: np.ascontiguousarray(value[trials, columns]) for key, value in held.items()}


def _follows(score: Score) -> bool:
    return bool({"scores", "features"} & set(score.definitions))


def frame_of(run: EncoderRun, scores: Mapping[str, Scores]) -> Any:
    """Tidy rows of ``scores`` [K, N] by name: image, origin, score, trial, value."""
    try:
        import pandas as pd
    except ImportError as error:
        raise McdoError('a data frame needs pandas: pip install "mcdo[frames]"') from error
    trials, N = next(iter(scores.values())).shape
    parts = [
        pd.DataFrame({
            "id": list(run.ids) * trials,
            "origin": list(run.origins) * trials,
            "score": name,
            "trial": np.repeat(np.arange(trials), N),
            "value": values.ravel(),
        })
        for name, values in scores.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True, eq=False)
class MonteCarloRun(EncoderRun):
    """Scores of one encoder on one image set, over passes.

    Attributes:
        config: the protocol.

    """

    config: MonteCarloConfig
    _values: Mapping[tuple[str, int], Scores] = field(repr=False)
    _eigenvalues: Mapping[int, Scores] = field(repr=False, default_factory=dict)

    def __repr__(self) -> str:
        times = ", ".join(map(str, self.config.passes))
        return self._said(f"K = {self.config.trials}, T = {times}, {self.config.dropout}")

    def to_frame(self, passes: int | None = None) -> Any:
        """A pandas DataFrame with one row for each image, score and trial, at ``passes`` (default: the largest T).

        Raises:
            McdoError: without pandas.

        """
        return frame_of(self, {name: self.scores(name, passes) for name in self.score_names if self._has(name, passes)})

    def _has(self, name: str, passes: int | None) -> bool:
        at = self.config.passes[-1] if passes is None else passes
        return (name, at) in self._values or name not in {taken for taken, _ in self._values}

    def scores(self, name: str, passes: int | None = None) -> Scores:
        """float64 ``[K, N]`` (trials × images); ``passes`` defaults to the largest T.

        Raises:
            McdoError: if the score is unknown, or was not taken, or not at that T.

        """
        passes = self.config.passes[-1] if passes is None else whole("passes", passes)
        if (name, passes) in self._values:
            return self._values[name, passes].copy()  # which is the caller's: what it writes there changes no run
        score = SCORES.find(name) if name in SCORES else None
        if score is not None and _follows(score):
            return self._derived(score, lambda other: self.scores(other, passes), self.config.trials)
        if name not in {n for n, _ in self._values}:
            known = "" if score is None else f" (it is computed from {INPUTS[next(iter(score.definitions))]})"
            raise McdoError(f"no score {name!r} in this run{known}; the nearest: {nearest(name, self.score_names)}")
        raise McdoError(
            f"{name} was not taken at T = {passes}; it was at T = {[t for n, t in self._values if n == name]}"
        )

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of what was taken while measuring, and of scores that follow from others."""
        after = [name for name, score in SCORES.registered.items() if _follows(score)]
        return tuple(dict.fromkeys((*(name for name, _ in self._values), *after)))

    def eigenvalues(self, passes: int) -> Scores:
        """float64 ``[K, N, 10]``: leading eigenvalues of the pre-norm covariance at ``passes``."""
        if passes not in self._eigenvalues:
            raise McdoError(f"no spectrum at T = {passes}; name it in geometry=")
        return self._eigenvalues[passes].copy()

    def select(self, columns: NDArray[np.integer] | slice, trials: slice = slice(None)) -> MonteCarloRun:
        """The same run seen on fewer images or trials: masks are keyed, so nothing else changes."""
        return MonteCarloRun(
            config=replace(self.config, trials=len(range(self.config.trials)[trials])),
            encoder=self.encoder,
            ids=tuple(np.asarray(self.ids, dtype=object)[columns]),
            origins=tuple(np.asarray(self.origins, dtype=object)[columns]),
            features=self.features[columns],
            sites=self.sites,
            provenance=self.provenance,
            _values=_chosen(self._values, trials, columns),
            _eigenvalues=_chosen(self._eigenvalues, trials, columns),
        )

    def restricted(self, config: MonteCarloConfig) -> MonteCarloRun:
        """As if no more than ``config`` asks for had been measured: fewer trials, fewer T."""
        if config == self.config:
            return self
        trials = slice(config.trials)
        return replace(
            self,
            config=config,
            _values=_chosen(
                {(name, t): value for (name, t), value in self._values.items() if t in config.taken_at(name)}, trials
            ),
            _eigenvalues=_chosen({t: value for t, value in self._eigenvalues.items() if t in config.geometry}, trials),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything measured, by flat names, for the store."""
        arrays: dict[str, NDArray[Any]] = {"features": self.features}
        arrays |= {f"{name}@{t}": value for (name, t), value in self._values.items()}
        return arrays | {f"eigenvalues@{t}": value for t, value in self._eigenvalues.items()}

    @staticmethod
    def split_arrays(
        arrays: Mapping[str, NDArray[Any]],
    ) -> tuple[NDArray[np.float32], dict[tuple[str, int], Scores], dict[int, Scores]]:
        """The inverse of :meth:`arrays`: features, scores by (name, T), eigenvalues by T."""
        values: dict[tuple[str, int], Scores] = {}
        eigenvalues: dict[int, Scores] = {}
        for key, array in arrays.items():
            name, _, t = key.partition("@")
            if name == "eigenvalues":
                eigenvalues[int(t)] = array
            elif t:
                values[name, int(t)] = array
        return arrays["features"], values, eigenvalues
