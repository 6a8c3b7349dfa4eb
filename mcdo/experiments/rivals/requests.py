"""What rivals measure beside features and passes: the head on any images, votes of the passes, views of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder
from mcdo.encoders.text_tower import TextTower
from mcdo.encoders.zero_shot import TEMPLATES, unit
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, prepared
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.by_image import of_passes
from mcdo.estimators.laplace import projection_inputs
from mcdo.estimators.progress import progress_of
from mcdo.estimators.resumption import KeptValues
from mcdo.estimators.rows import pixel_rows
from mcdo.harness import Features, Images, Session, StoredArrays, TextFeatures
from mcdo.harness.laplace_requests import Fitted, calibration_images, captured
from mcdo.harness.requests import features_of
from mcdo.images import ImageSet
from mcdo.perturbation import deterministic_features, image_keys, perturbed
from mcdo.rivals import Scorer
from mcdo.rivals.expected_cosine import Uncertain, expected_cosines, expected_scores, text_posterior
from mcdo.store.own_code import own_code

VOTES = ("mutual_information", "variation_ratio", "vote_share", "predictive_entropy")


@dataclass(frozen=True)
class Head(StoredArrays):
    """The zero-shot head of ``classes`` on images of any kind.

    ``logits`` and ``cosines`` float64 [N, C], and ``sigmoid`` [1]: whether that is its loss.
    """

    what = "zero-shot head"

    shown: Images
    classes: tuple[str, ...]

    def identity(self, session: Session) -> Mapping[str, Any]:
        images = session.image_set(self.shown).fingerprint
        return {"images": images, "classes": list(self.classes), "template": TEMPLATES[0]}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        features = session.measure(Features(self.model, self.shown))["features"]
        encoder = session.encoder(self.model)
        prompts = tuple(TEMPLATES[0].format(name) for name in self.classes)
        encoder.check_distinct(prompts, self.classes)
        text = session.measure(TextFeatures(self.model, prompts))["features"]
        with torch.inference_mode():
            logits = encoder.text_logits(torch.from_numpy(features), torch.from_numpy(unit(text)).float())
        sigmoid = np.array([encoder.loss == "sigmoid"])
        return {"logits": logits.double().cpu().numpy(), "cosines": unit(features) @ unit(text).T, "sigmoid": sigmoid}


@dataclass(frozen=True)
class Votes(StoredArrays):
    """What the head says of each pass, float64 [K, N] by name.

    mutual_information: entropy of the mean softmax less the mean entropy (Houlsby et al. 2011); variation_ratio: one
    minus the share of the most frequent class (Freeman 1965); vote_share: minus the share of passes that name the
    class of the deterministic pass; predictive_entropy: of the mean softmax.
    """

    what = "votes of passes"

    shown: Images
    classes: tuple[str, ...]
    config: MonteCarloConfig

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown) * self.config.passes[-1] * self.config.trials

    def identity(self, session: Session) -> Mapping[str, Any]:
        images = session.image_set(self.shown).fingerprint
        classes = {"classes": list(self.classes), "template": TEMPLATES[0]}
        return {"images": images, "protocol": self.config.as_dict(), **classes}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder, images = session.encoder(self.model), session.image_set(self.shown)
        pixels, keys = session.pixels(self.model, self.shown), image_keys(images.mask_ids, encoder.device)
        said = session.measure(Head(self.model, self.shown, self.classes))["logits"].argmax(axis=1)
        T, trials = self.config.passes[-1], self.config.trials

        def look(part: slice, loop: BlockLoop) -> list[NDArray[np.float64]]:
            shown, found = pixels.batch(part), []
            for trial in range(trials):
                logits = []
                for features in tower.passes(shown, keys[part], trial, T, loop.rows):
                    logits.append(encoder.text_logits(features, text).double().cpu().numpy())
                    loop.tick(features.shape[0] * features.shape[1])
                found.append(votes(np.concatenate(logits, axis=1), said[part]))
            return [np.stack([each[name] for each in found], axis=1) for name in VOTES]

        text = encoder.class_directions(self.classes, TEMPLATES[0])
        with perturbed(encoder, self.config.dropout, self.config.seed) as tower:
            size, progress = session.settings.batch_size, session.progress(self)
            arrays = of_passes(encoder, len(images), look, T * trials, self.what, size, progress, session.parts)
        return {name: np.ascontiguousarray(score.T) for name, score in zip(VOTES, arrays, strict=True)}


def votes(logits: NDArray[np.float64], said: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
    """The scores of :class:`Votes`, [B] each, of logits [B, T, C] and the class ``said`` [B] by the whole encoder."""
    from scipy import special

    chosen, C = logits.argmax(axis=2), logits.shape[2]
    shares = (chosen[:, :, None] == np.arange(C)).mean(axis=1)
    probabilities = special.softmax(logits, axis=2)
    total = special.entr(probabilities.mean(axis=1)).sum(axis=1)
    within = special.entr(probabilities).sum(axis=2).mean(axis=1)
    return {
        "mutual_information": total - within,
        "variation_ratio": 1 - shares.max(axis=1),
        "vote_share": -np.take_along_axis(shares, said[:, None], axis=1)[:, 0],
        "predictive_entropy": total,
    }


@dataclass(frozen=True)
class ExpectedCosines(Fitted):
    """Scores [N] of a posterior over both projections, by the names of :data:`EXPECTED`.

    ``prior_image`` and ``prior_text`` [1] are the prior precisions that the evidence chose. ``left_out``, UTF-8, says
    in place of all these why they cannot be taken.
    """

    what = "expected cosines"

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {**super().identity(session), "images": session.image_set(self.shown).fingerprint}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder, images = session.encoder(self.model), session.image_set(self.shown)
        tower, classes = TextTower(encoder), self.calibration(session).class_names
        try:
            shown, texts, norm = projection_inputs(tower, tower.tokenize([TEMPLATES[0].format(c) for c in classes]))
        except McdoError as error:  # of a text tower that ends in something else than a linear map
            return {"left_out": np.frombuffer(str(error).encode(), np.uint8)}  # a store holds numbers
        _, projection, fitted = self.posteriors(session)
        inputs, features, _ = captured(encoder, session.pixels(self.model, self.shown), session, self)
        said, x = texts.cpu().double().numpy(), shown.cpu().double().numpy()
        posterior = text_posterior(projection.head, fitted, said, x, norm)
        mean, variance = expected_cosines(
            Uncertain(features, projection.feature_variances(images, features, inputs)),
            Uncertain(said, posterior.variance_along(x, np.eye(said.shape[1]))),
        )
        priors = {"prior_image": projection.prior_precision, "prior_text": posterior.prior_precision}
        return {
            **expected_scores(mean, variance, encoder.logit_scale, encoder.logit_bias),
            **{name: np.array([prior]) for name, prior in priors.items()},
        }


@dataclass(frozen=True)
class Views(StoredArrays):
    """Test-time augmentation: ``spread`` [K, N], the trace of the covariance of unit features over ``views`` crops.

    A view is the image moved by up to an eighth of its side, edges repeated, and mirrored half of the time where
    ``mirrored``; keyed by image, trial and view.
    """

    what = "views"
    text = False

    shown: Images
    views: int
    trials: int
    seed: int
    mirrored: bool = False

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown) * self.views * self.trials

    def identity(self, session: Session) -> Mapping[str, Any]:
        protocol = {"views": self.views, "trials": self.trials, "seed": self.seed, "mirrored": self.mirrored}
        return {"images": session.image_set(self.shown).fingerprint, **protocol}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder, images = session.encoder(self.model), session.image_set(self.shown)
        pixels, keys = session.pixels(self.model, self.shown), image_keys(images.mask_ids).numpy().astype(np.uint64)

        def look(part: slice, loop: BlockLoop) -> list[NDArray[np.float64]]:
            shown = pixels.batch(part)
            spread = np.empty((len(shown), self.trials))
            for trial in range(self.trials):
                seen = []
                for view in range(self.views):
                    features = deterministic_features(encoder, self._view(shown, keys[part], trial, view))
                    seen.append(unit(features.cpu().numpy()))
                    loop.tick(len(shown))
                spread[:, trial] = np.var(np.stack(seen), axis=0, ddof=1).sum(axis=1)
            return [spread]

        size, progress = session.settings.batch_size, session.progress(self)
        (spread,) = of_passes(
            encoder, len(images), look, self.views * self.trials, self.what, size, progress, session.parts
        )
        return {"spread": np.ascontiguousarray(spread.T)}

    def _view(self, pixels: torch.Tensor, keys: NDArray[np.uint64], trial: int, view: int) -> torch.Tensor:
        side = pixels.shape[-1]
        most = max(1, side // 8)
        padded = torch.nn.functional.pad(pixels, (most,) * 4, mode="replicate")
        moved = []
        for i, key in enumerate(keys):
            rng = np.random.default_rng([self.seed, int(key), trial, view])
            top, left = rng.integers(0, 2 * most + 1, 2)
            crop = padded[i, :, top : top + pixels.shape[-2], left : left + side]
            moved.append(crop.flip(-1) if self.mirrored and rng.integers(2) else crop)
        return torch.stack(moved)


@dataclass(frozen=True)
class CalibrationFeatures(Fitted):
    """Deterministic features of the calibration images: ``features`` float32 [M, D]."""

    what = "calibration features"
    text = False
    needs_classes = False

    def expected_passes(self, session: Session) -> int:
        return self.fit

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"fit": self.calibration(session).fingerprint}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder = session.encoder(self.model)
        return features_of(session, self, encoder, prepared(encoder, self.calibration(session)))


@dataclass(frozen=True)
class OwnScores(StoredArrays):
    """What a scorer of the user's gives: ``scores`` float64 [K, N], K = 1 for one that is not stochastic.

    One that has a ``fit`` is fitted first, on up to ``fit`` images that share no origin with ``scored``. Scores are
    kept as calls return: of one trial, or of a batch of images where the scorer is ``by_image``. ``forwards`` [1] are
    those of the image tower for an image and trial, as they were counted in the calls since the last kill. ``holds``
    is :func:`~mcdo.rivals.scorer.held_by`.
    """

    what = "scores of one's own"

    shown: Images
    scorer: Scorer = field(compare=False)
    holds: str
    trials: int
    scored: Images
    fit: int

    def calibration(self, session: Session) -> ImageSet | None:
        """What it is fitted on; None for one that needs no fit."""
        if not hasattr(self.scorer, "fit"):
            return None
        return calibration_images(session.image_set, session.settings, self.scored, self.fit)

    def expected_passes(self, session: Session) -> int:
        each = self.scorer.cost * (self.trials if self.scorer.stochastic else 1)
        return int(session.count(self.shown) * max(each, 0.0))

    def identity(self, session: Session) -> Mapping[str, Any]:
        calibration = self.calibration(session)
        fitted = None if calibration is None else calibration.fingerprint
        made_by = {"scorer": self.scorer.name, "code": own_code(type(self.scorer)), "holds": self.holds}
        return {"images": session.image_set(self.shown).fingerprint, "trials": self.trials, "fit": fitted, **made_by}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        encoder, images = session.encoder(self.model), session.image_set(self.shown)
        name, n, trials = self.scorer.name, len(images), self.trials if self.scorer.stochastic else 1
        at_once = pixel_rows(encoder, session.settings.batch_size) if getattr(self.scorer, "by_image", False) else n
        kept = KeptValues(session.parts, trials * n, {"encoder": encoder.key, "images": images.name, "protocol": name})
        calls = [(trial, start) for trial in range(trials) for start in range(0, n, at_once)]
        left = [(trial, start) for trial, start in calls if not kept.done[trial * n + start]]

        def score(part: slice, trial: int) -> NDArray[np.float64]:
            shown = images if at_once >= n and part == slice(0, n) else images.select(part)
            given = np.asarray(self.scorer.score(encoder, shown, trial), dtype=np.float64)
            return np.asarray(checked(name, given[None], shown.ids)[0])

        if left and (calibration := self.calibration(session)) is not None:
            check_unseen(name, images, calibration)
            self.scorer.fit(encoder, calibration)  # type: ignore[attr-defined]
        rows = scored = 0
        with progress_of(session.progress(self), len(left), f"{encoder.key}, {name}", "calls") as bar, kept.saved():
            for trial, start in left:
                with counted_rows(encoder) as count:
                    scores = score(slice(start, min(n, start + at_once)), trial)
                rows, scored = rows + count(), scored + len(scores)
                if (trial, start) == left[0] and at_once < n:
                    check_by_image(name, images.ids[start], scores[0], score(slice(start, start + 1), trial)[0])
                kept.put(trial * n + start, scores)
                bar.update(1)
        forwards = np.array([rows / scored if scored else self.scorer.cost], dtype=np.float64)
        return {"scores": kept.values.reshape(trials, n), "forwards": forwards}


@contextmanager
def counted_rows(encoder: Encoder) -> Iterator[Callable[[], int]]:
    """Count the rows that the image tower carries out, and as many again for each way back through it."""
    carried_out, count = encoder.forward_image, 0

    def add(rows: int) -> None:
        nonlocal count
        count += rows

    def counting(pixels: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        features = carried_out(pixels, exact=exact)
        add(len(pixels))
        if features.requires_grad:
            features.register_hook(lambda _: add(len(pixels)))  # type: ignore[no-untyped-call]
        return features

    encoder.forward_image = counting  # type: ignore[method-assign]
    try:
        yield lambda: count
    finally:
        del encoder.forward_image


def check_unseen(name: str, images: ImageSet, calibration: ImageSet) -> None:
    """Raise McdoError where a scorer would score what it was fitted on, naming it."""
    fitted = set(calibration.origins)
    seen = [image_id for image_id, origin in zip(images.ids, images.origins, strict=True) if origin in fitted]
    if seen:
        raise McdoError(
            f"the scorer {name} is fitted on {len(seen)} of the {len(images)} images of {images.name} that it would "
            f"score, such as {seen[0]}: give other images (--ood)"
        )


def check_by_image(name: str, image_id: str, beside: float, alone: float) -> None:
    """Raise McdoError for a scorer that says it is ``by_image``, where other images change the score of one."""
    if not np.isclose(beside, alone, rtol=1e-3, atol=1e-6 * abs(beside)):
        raise McdoError(
            f"the scorer {name} says by_image, and gives {beside:.6g} for {image_id} beside other images but "
            f"{alone:.6g} alone; leave by_image out, and each call gets all images"
        )


def checked(name: str, scores: NDArray[np.float64], ids: tuple[str, ...]) -> NDArray[np.float64]:
    """Scores [K, N] as they are.

    Raises:
        McdoError: for another shape, or a number that is not finite, naming the image.

    """
    if scores.ndim != 2 or scores.shape[1] != len(ids):
        raise McdoError(f"the scorer {name} gave {scores.shape[1:]} for {len(ids)} images; it must give [N]")
    bad = ~np.isfinite(scores).all(axis=0)
    if bad.any():
        raise McdoError(f"the scorer {name} gave a number that is not finite for {ids[int(bad.argmax())]}")
    return scores
