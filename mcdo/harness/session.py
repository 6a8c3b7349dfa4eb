"""A session: what has been loaded and measured, each thing once, and every experiment's result.

Requests of all selected tests are announced with :meth:`Session.plan` before the first is measured, so that one run
serves as many as it can.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from mcdo.encoders import Encoder, Prompts, TextTower, Tokens, load_encoder
from mcdo.encoders.text_tower import IDENTITY
from mcdo.errors import McdoError, UntrainedHeadError
from mcdo.estimators import prepared
from mcdo.estimators.progress import Progress
from mcdo.estimators.provenance import encoder_identity, versions
from mcdo.estimators.resumption import interrupted_by_signals, notify
from mcdo.harness.offline import OfflineEncoder, card
from mcdo.harness.remaining import Remaining
from mcdo.harness.requests import Arrays, Images, Logits, Request, Shown, merged
from mcdo.harness.settings import Settings
from mcdo.images import ImageSet, Pixels, TooFewImagesError, load_images
from mcdo.images.sampling import second_half
from mcdo.store import Store, Unfinished, UnsavedResultWarning, canonical_json
from mcdo.store.fingerprint import measuring_code

Value = TypeVar("Value")


def _of(facts: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Mapping[str, Any]], None]:
    """What is stored must have been computed with the same facts, whatever people call it."""

    def check(_: Mapping[str, Any], held: Mapping[str, Any]) -> None:
        if canonical_json({name: held[name] for name in facts}) != canonical_json(facts):
            raise ValueError("it is of something else")

    return check


LEAST_IMAGES = 3


class Session:
    """Encoders, image sets, pixels and measurements of one session; nothing is loaded or measured twice.

    Args:
        settings: what the command line decides.
        unmuted: a context in which progress reaches the terminal (pytest captures output otherwise).

    Attributes:
        loads: how often each model was loaded.
        store: where measurements go, or None.
        remaining: how much of the plan is left.
        there: images of the session's set, where somebody looked.
        classes_there: classes of it, likewise.

    """

    def __init__(self, settings: Settings, unmuted: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.settings = settings
        self.loads: Counter[str] = Counter()
        self.unmuted = unmuted
        self.store = None if settings.store is None else Store(settings.store)
        self._encoders: dict[str, Encoder] = {}
        self._text: set[str] = set()
        self._images: dict[Images, ImageSet] = {}
        self._pixels: dict[tuple[str, str], Pixels] = {}
        self._arrays: dict[str, Arrays] = {}
        self._under_way: list[Unfinished] = []
        self._plan: list[Request[Any]] = []
        self._announced: set[Request[Any]] = set()
        self._serving: dict[Request[Any], Request[Any]] = {}
        """Which planned one serves a request; of the plan as it is."""
        self._foreseen: dict[Hashable, Callable[[], Iterable[Request[Any]]]] = {}
        self._values: dict[Request[Any], Any] = {}
        self._heads: dict[Request[Any], str] = {}
        self._keys: dict[Request[Any], str] = {}
        self.remaining = Remaining(self)
        self.there: int | None = None
        self.classes_there = 0

    def afresh(self) -> Session:
        """The same encoders and image sets, with nothing planned: no request is merged with those that came before."""
        other = Session(self.settings, self.unmuted)
        other._encoders, other._text, other._images = self._encoders, self._text, self._images
        return other

    def offline(self, reports: Path) -> Session:
        """What the store alone knows, of the same image sets: reading those takes as long as decoding every image."""
        other = Session(replace(self.settings, from_store=True, reports=reports))
        other._images = self._images
        return other

    # ---- measurements

    def plan(self, requests: Iterable[Request[Any]]) -> None:
        """Announce requests before the first is measured."""
        new = dict.fromkeys(request for request in requests if request not in self._announced)
        if new:
            self._announced.update(new)
            self._plan = merged(new, self._plan)
            self._serving.clear()

    def foresee(self, of: Hashable, requests: Callable[[], Iterable[Request[Any]]]) -> None:
        """What will follow from first results, about; the time left counts what of it is not measured yet."""
        self._foreseen[of] = requests

    @property
    def planned(self) -> tuple[Request[Any], ...]:
        """The measurements that serve all requests announced so far."""
        return tuple(self._plan)

    def measure(self, request: Request[Value]) -> Value:
        """The value of ``request``, by the planned measurement that serves it: looked up, or carried out now."""
        self.plan([request])
        if request not in self._serving:
            self._serving[request] = next(each for each in self._plan if each.union(request) == each)
        planned = self._serving[request]
        if planned not in self._values:
            if self.store is not None:
                self.store.asked = ""
            self._values[planned] = planned.measure(self)
            if self.store is not None:
                self._keys[planned] = self.store.asked
        return request.part_of(cast("Value", self._values[planned]))

    def used(self, experiment: str, requests: Iterable[Request[Any]]) -> None:
        """Note in the store that an experiment wants these measurements, as far as this session has them."""
        for request in requests:
            planned = next((each for each in self._keys if each.union(request) == each), None)
            if self.store is not None and planned is not None and self._keys[planned]:
                self.store.used(experiment, self._keys[planned])

    def head_reason(self, request: Logits) -> str:
        """Why the head that reads images knows nothing of their classes, or "".

        Degraded images may be beyond any head, so the same are asked about as they are without.
        """
        clean = replace(request, shown=replace(request.shown, degradation=None))
        if clean not in self._heads:
            from mcdo.harness.heads import read_head

            read = self.measure(clean)
            self._heads[clean] = read_head(read, self.image_set(clean.shown), self.settings.seed).head_reason
        return self._heads[clean]

    def check_head(self, request: Logits) -> None:
        """Raise UntrainedHeadError where the head that reads images knows nothing of their classes."""
        if reason := self.head_reason(request):
            raise UntrainedHeadError(f"{request.model}: {reason}")

    def progress(self, request: Request[Any]) -> Callable[[int, str, str], Progress]:
        """What makes the progress of a planned request: its own, and that of the whole plan."""
        plan, later = list(self._plan), [each for of in self._foreseen.values() for each in of()]

        @cache  # asked for by what takes long enough to be shown, and comparing hundreds of requests takes time
        def left() -> tuple[list[Request[Any]], str]:
            others = [each for each in plan if each not in self._values and each != request]
            place = f"measurement {len(plan) - len(others)} of {len(plan)}"
            planned = set(plan)
            return others + [each for each in later if each not in planned], place

        return self.remaining.progress(request, left)

    @property
    def parts(self) -> Unfinished | None:
        """Where what is computed now may keep what it has so far; for a request that measures images once."""
        return self._under_way[-1] if self._under_way else None

    def count(self, shown: Shown) -> int:
        """How many images or prompts are shown, at most."""
        if isinstance(shown, Images):
            if shown.n is None or shown in self._images:
                return len(self.image_set(shown))
            return shown.n if self.there is None or shown.source is not None else min(shown.n, self.there)
        return len(shown.prompts)

    def stored(
        self,
        what: str,
        model: str,
        identity: Mapping[str, Any],
        compute: Callable[[], Arrays],
        code: str = __name__,
        *,
        text: bool = True,
    ) -> Arrays:
        """Arrays from this session, from the store, or computed now and stored.

        Args:
            what: what is computed.
            model: the encoder, of which all that decides its features is part of the key; "" for none.
            identity: everything else that decides the arrays; JSON-able.
            compute: makes them; the only place that may need the loaded model.
            code: the module or package where that is written: its code is part of the key.
            text: whether the tokenizer or the text tower takes part.

        """
        if model:
            text = text and bool(getattr(self.encoder(model), "has_text", True))  # a scorer may do without
            made_by = encoder_identity(self.text_encoder(model) if text else self.encoder(model), text=text)
        else:
            made_by = {"versions": dict(versions()), "device": torch.device(self.settings.device).type}
        # the identity stands apart: one that says "code" as well must not take the place of ours
        facts = {"kind": what, "code": measuring_code(code), "provenance": made_by, "of": identity}
        key = Store.key(facts)
        if key not in self._arrays:
            entry = None if self.store is None else self.store.get(key, _of(facts))
            self._arrays[key] = entry[0] if entry else self._computed(key, facts, model, compute)
        return self._arrays[key]

    def _computed(self, key: str, facts: Mapping[str, Any], model: str, compute: Callable[[], Arrays]) -> Arrays:
        if self.store is None:
            return compute()
        parts = self.store.unfinished(key)
        with parts.held(notify):
            entry = self.store.get(key, _of(facts))  # by a process that was waited for
            if entry is not None:
                return entry[0]
            self._under_way.append(parts)
            try:
                with interrupted_by_signals():
                    arrays = compute()
            finally:
                self._under_way.pop()
            try:
                label = {"encoder": model or "none", "protocol": facts["kind"]}
                self.store.put(key, arrays, {**facts, "label": label})
                parts.remove()
            except McdoError as error:
                warnings.warn(f"{facts['kind']} is not kept: {error}", UnsavedResultWarning, stacklevel=2)
        return arrays

    # ---- what is measured

    def encoder(self, model: str) -> Encoder:
        """The encoder, loaded on first use; with ``--from-store`` only its identity."""
        if model not in self._encoders:
            self._encoders[model] = self._offline(model) if self.settings.from_store else self._loaded(model)
        return self._encoders[model]

    def _loaded(self, model: str) -> Encoder:
        settings = self.settings
        self.loads[model] += 1
        encoder = load_encoder(
            model,
            settings.device,
            weights="random" if model in settings.random_weights else "pretrained",
            seed=settings.seed,
            precision=settings.precision,
        )
        if self.store is not None:
            with suppress(OSError):  # a store that cannot be written is reported where a measurement is to be kept
                OfflineEncoder.of(encoder).write(card(self.store, settings, model))
        return encoder

    def text_encoder(self, model: str) -> Encoder:
        """The encoder as :meth:`encoder` gives it, its tokenizer and text tower among what ``--from-store`` knows."""
        encoder = self.encoder(model)
        if self.settings.from_store and cast("OfflineEncoder", encoder).text is None:
            self._encoders[model] = encoder = self._offline(model)  # known by now, perhaps
        if self.store is not None and not self.settings.from_store and model not in self._text:
            self._text.add(model)
            with suppress(OSError):  # as above
                OfflineEncoder.of(encoder, encoder.text_identity).write(card(self.store, self.settings, model))
        return encoder

    def _offline(self, model: str) -> Encoder:
        if self.store is None:
            raise McdoError("--from-store needs a store: leave out --store=none")
        return cast("Encoder", OfflineEncoder.read(card(self.store, self.settings, model)))

    def tower(self, model: str, shown: Shown) -> tuple[Encoder, ImageSet, Callable[[], Pixels]]:
        """The tower that is shown images or prompts, these as an image set, and how to get them ready."""
        encoder = self.encoder(model) if isinstance(shown, Images) else self.text_encoder(model)
        if isinstance(shown, Images):
            images = self.image_set(shown)
            if len(images) < LEAST_IMAGES:
                raise McdoError(f"{images.name}: {len(images)} images are too few for any statistic")
            return encoder, images, lambda: self.pixels(model, shown)
        prompts = Prompts(shown.prompts, origins=shown.origins)
        named = {"key": f"{encoder.key}:text", "preprocess_id": IDENTITY}
        tower = replace(cast("Any", encoder), **named) if self.settings.from_store else TextTower(encoder)
        return tower, cast("ImageSet", prompts), lambda: cast("Pixels", Tokens.of(tower, prompts))

    def image_set(self, images: Images) -> ImageSet:
        """The images asked for; all there are where there are fewer."""
        if images not in self._images:
            self._images[images] = self._made(images)
        return self._images[images]

    def classes(self, images: Images) -> int:
        """How many classes the images have; 0 where nobody looked at them yet, and none is read for this."""
        if images in self._images:
            return len(self._images[images].class_names)
        return self.classes_there if images.source is None else 0

    def _made(self, images: Images) -> ImageSet:
        if images.common_masks:
            return self.image_set(replace(images, common_masks=False)).with_common_masks()
        for part, whole in ((images.fold, replace(images, fold=None)), (images.half, replace(images, half=None))):
            if part is not None:
                (seed, which), shown = part, self.image_set(whole)
                return shown.select(np.flatnonzero(second_half(shown.origins, seed) == which))
        if images.degradation is not None:
            from mcdo.images.degradations import degraded

            return degraded(self.image_set(replace(images, degradation=None)), images.degradation)
        return self._read(images)

    def _read(self, images: Images) -> ImageSet:
        spec, seed, skip = images.source or self.settings.images, self.settings.seed, self.settings.skip_unreadable
        try:
            return load_images(spec, images.n, seed, skip_unreadable=skip)
        except TooFewImagesError:
            return load_images(spec, None, seed, skip_unreadable=skip)

    def pixels(self, model: str, images: Images) -> Pixels:
        """Pixels of ``images`` as the encoder wants them, on its device."""
        chosen = self.image_set(images)
        key = (model, chosen.fingerprint)
        if key not in self._pixels:
            self._pixels[key] = prepared(self.encoder(model), chosen)
        return self._pixels[key]
