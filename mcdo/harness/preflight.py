"""What is in the way of a run, found before its first pass and said in one message; ``mcdo doctor`` asks the same."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mcdo.encoders import Encoder
from mcdo.encoders.load import check_tokenizer, located, reads_prompts
from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.errors import McdoError, NotApplicableError, SiteWarning
from mcdo.harness.budget import seconds_of, set_sizes
from mcdo.harness.decision import FILE, LEAST_ORIGINS, refusal
from mcdo.harness.experiment import ALL_MODELS, Experiment, Subject, View, foreseen
from mcdo.harness.memory import available_memory
from mcdo.harness.remaining import SITES_PASSES, TIMING_S, duration
from mcdo.harness.requests import FirstOrder, Images, Logits, Passes, Request
from mcdo.harness.runner import Runner
from mcdo.harness.session import LEAST_IMAGES, Session
from mcdo.images.listing import Looked, unusable
from mcdo.images.load import look_at
from mcdo.names import few_of, say, size_of
from mcdo.perturbation import find_sites
from mcdo.perturbation.context import live_sites
from mcdo.report.finding import Finding, State
from mcdo.stats.prototypes import MOST_UNNAMED

PREFLIGHT_S = 30.0
"""Seconds that it takes, beside loading the encoders: a run needs these anyway, and nothing is in its way by then."""
LOOK_S = 12.0
"""Of these, seconds for which images are decoded; the others are when they are needed, before any pass of them."""
LEAST_TIMING_S = 2.0
"""Seconds that timing a pass may take where none are left."""
QUIET_S = 10.0
"""Seconds after which it says what it is at."""
LONG_S = 30.0
"""Seconds of passes from which on what is expected is said."""
LEAST_FREE = 2**26
"""Bytes that must be free beside the arrays of scores."""
_SCORES = 12
"""About as many arrays [K, N] are stored for every T."""


def weights(key: str, missing: State = "wrong") -> Finding:
    """Where an encoder's weights are, or the command that gets them."""
    try:
        return Finding(key, "ok", located(key))
    except McdoError as error:
        return Finding(key, missing, str(error))


def images(spec: str, n: int | None, seed: int, seconds: float, *, skip: bool) -> tuple[list[Finding], Looked | None]:
    """Whether the images that a run of ``n`` (None: of all) would be shown can be, as far as ``seconds`` allow."""
    try:
        seen = look_at(spec, n, seed, seconds)
    except McdoError as error:
        return [Finding("images", "wrong", str(error))], None
    found = []
    if seen.there < LEAST_IMAGES:
        found.append(Finding("images", "wrong", f"{spec}: {seen.there} images are too few for any statistic"))
    if seen.unusable and (not skip or len(seen.unusable) == seen.chosen):
        found.append(Finding("images", "wrong", str(unusable(spec, seen.unusable, seen.looked_at))))
    if seen.looked_at < seen.chosen:
        some = f"{seen.looked_at:,} of {seen.chosen:,} were decoded in {seconds:.0f} s"
        found.append(Finding("images", "told", f"{spec}: {some}, the others will be before they are measured"))
    if not found:
        found.append(
            Finding(
                "images",
                "ok",
                f"{spec}: {seen.there} images, {seen.originals} originals, {len(seen.class_names)} classes",
            )
        )
    return found, seen


def places(store: Path | None, reports: Path | None, needed: int = LEAST_FREE) -> Iterator[Finding]:
    """Whether ``needed`` bytes can be written where measurements go, and reports where they go, if any do."""
    from mcdo.report.files import check_writable
    from mcdo.store import Store

    if store is not None:
        free = shutil.disk_usage(_existing(store)).free
        said = f"{store}: {free / 2**30:.1f} GB free"
        try:
            Store(store).check_writable()
            if free < needed:
                said = f"{said}, {needed / 2**30:.1f} GB wanted: name another disk with --store"
                yield Finding("store", "wrong", said)
            else:
                yield Finding("store", "ok", said)
        except McdoError as error:
            yield Finding("store", "wrong", str(error))
    if reports is None:
        return
    try:
        check_writable(reports)
        yield Finding("reports", "ok", str(reports))
    except McdoError as error:
        yield Finding("reports", "wrong", str(error))


def preflight(
    runner: Runner,
    asked: Sequence[tuple[Experiment[Any], Subject]],
    *,
    models: Iterable[str] = (),
    later: bool = False,
    decides: bool = False,
    alone: bool = True,
    reports: bool = True,
    tell: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:
    """Plan what is asked, and say what is in its way (``wrong``) and what to know of it (``told``).

    What can be seen without the encoders comes first; only where nothing is wrong by then are they loaded.

    Args:
        runner: of the session.
        asked: experiments and their subjects.
        models: encoders that are needed by others than these.
        later: whether a later phase is among what is asked, and must have a GO.
        decides: whether the verdict is.
        alone: whether no other process does the same: then encoders are loaded, to see that they can be, how much room
            is needed and how long a pass takes; with workers each loads its own.
        reports: whether any will be written.
        tell: given what to know as soon as it is known that a run is possible, before what may take long.

    Returns:
        What was not given to ``tell``.

    """
    began = time.monotonic()
    session = runner.session
    settings = session.settings
    every = tuple(dict.fromkeys((*models, *(model for _, subject in asked for model in subject.models))))
    folder = settings.reports if reports else None
    with _Said(session) as at:
        found, seen = _without_encoders(session, asked, every, at, folder, later=later, decides=decides, alone=alone)
        loading = 0.0
        if alone:
            if any(each.state == "wrong" for each in found):
                return [
                    *found,
                    Finding("encoders", "told", "none was loaded, so what else is wrong with them is not said"),
                ]
            for each in found:
                if each.state == "told":
                    tell(each)
            found, loading = _loaded(session, every, at)
        at.work = "planning"
        if seen is not None:
            most = max(map(_most_images, asked), default=0)
            session.there = seen.there if seen.there < most else None
            session.classes_there = len(seen.class_names)
        left = max(0.0, PREFLIGHT_S - (time.monotonic() - began - loading))
        session.remaining.timing_s = min(TIMING_S, max(LEAST_TIMING_S, left / max(len(every), 1)))
        if settings.budget and not any(each.state == "wrong" for each in found):
            found.append(_fitted(session, asked, settings.budget))
            asked = [(type(experiment).configured(session.settings), subject) for experiment, subject in asked]
            found += _short(asked, seen, settings.images) if seen is not None else ()
        absent = {each.what for each in found if each.state == "wrong"} & set(every)
        ready = [(experiment, subject) for experiment, subject in asked if not absent & set(subject.models)]
        for experiment, subject in ready:
            runner.plan(experiment, subject)
        if alone:
            if seen is not None:
                found += (*_classless(session, ready, seen), *_alike(session, seen), *_single(session, seen))
            found += _no_go(session, every, loaded=True) if later and not decides and not absent else []
            needed = LEAST_FREE + _bytes_stored(session)
            found += [each for each in places(settings.store, folder, needed) if each.state == "wrong"]
        if alone and not any(each.state == "wrong" for each in found) and not settings.from_store:
            at.work = "timing a pass"
            perturbed = dict.fromkeys(each.model for each in session.planned if isinstance(each, Passes | FirstOrder))
            for model in perturbed:
                at.work = f"looking for the sites of {model}"
                found += _sites(session, model, PREFLIGHT_S - (time.monotonic() - began - loading))
            found += (*_memory(session), *_expected(session, ready))
    return found


def _without_encoders(
    session: Session,
    asked: Sequence[tuple[Experiment[Any], Subject]],
    every: Sequence[str],
    at: _Said,
    reports: Path | None,
    *,
    later: bool,
    decides: bool,
    alone: bool,
) -> tuple[list[Finding], Looked | None]:
    """What can be said while nothing is loaded, and what there is to be shown where images are wanted."""
    settings, seen = session.settings, None
    found = [_weights(session, model) for model in every]
    most = max(map(_most_images, asked), default=0)
    if most:
        at.work = f"looking at {settings.images}"
        looked, seen = images(settings.images, most, settings.seed, LOOK_S, skip=settings.skip_unreadable)
        found += looked
    if alone and seen is not None and len(seen.class_names) > 1:
        reading = _reading(session, asked)
        found = [_readable(each) if each.what in reading else each for each in found]
    if decides and settings.random_weights:
        names = ", ".join(sorted(settings.random_weights))
        found.append(Finding("verdict", "told", f"random weights decide nothing ({names})"))
    unloaded = _Unloaded(settings)
    if not any(each.what == "images" and each.state == "wrong" for each in found):
        said = {
            (experiment.key, each): None
            for experiment, about in asked
            for each in _obstacles(unloaded, experiment, about)
        }
        found += (Finding(what, "wrong", each) for what, each in said)
    if seen is not None:
        found += () if settings.budget else _short(asked, seen, settings.images)
        found += _few(seen) if decides else ()
        found += _classless(unloaded, asked, seen) if alone else ()
    if later and not decides:
        found += _no_go(unloaded, every, loaded=False)
    found += places(settings.store, reports)
    return found, seen


def _most_images(asked: tuple[Experiment[Any], Subject]) -> int:
    return max(_own_images(asked[0]), default=0)


class _Said:
    """Says on the terminal what pre-flight is at, where that takes long.

    Attributes:
        work: what it is at.

    """

    def __init__(self, session: Session) -> None:
        self.work, self._over, self._session = "looking", threading.Event(), session
        self._watch = threading.Thread(target=self._say, daemon=True)

    def __enter__(self) -> _Said:
        self._unmuted = self._session.unmuted()
        self._unmuted.__enter__()
        self._watch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._watch.join()
        self._unmuted.__exit__(*error)

    def _say(self) -> None:
        began = time.monotonic()
        while not self._over.wait(QUIET_S):
            say(f"Pre-flight: {self.work}, {time.monotonic() - began:.0f} s so far", sys.stderr)


def _fitted(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], budget: str) -> Finding:
    """Sizes that the session is given, or why none would do."""
    try:
        chosen = set_sizes(session, asked, seconds_of(budget))
    except McdoError as error:
        return Finding("--protocol", "wrong", f"auto:{budget}: {error}")
    said = f"{session.settings.sizes or 'as published'}, about {duration(chosen.seconds)} of passes for auto:{budget}"
    if chosen.chance is not None:
        by = f"the pilot of {', '.join(chosen.pilots)}" if chosen.pilots else "reliabilities that are all as likely"
        said += f"; decides whether a score is usable with probability {chosen.chance:.2f}, by {by}"
    return Finding("sizes", "told", said)


def _weights(session: Session, model: str) -> Finding:
    """Whether the weights are there; nothing is loaded."""
    settings = session.settings
    return Finding(model, "ok", "") if settings.from_store or model in settings.random_weights else weights(model)


class _Unloaded(Session):
    """A session in which nothing is loaded: what experiments can name, and be refused for, without."""

    def encoder(self, model: str) -> Encoder:
        """Nothing. Raises McdoError."""
        raise McdoError(f"{model} is not loaded")


def _named(session: Session, experiment: Experiment[Any], subject: Subject) -> Iterator[Request[Any]]:
    """What an experiment requests, as far as it can be told; running it will say what is wrong with it."""
    with suppress(McdoError):
        yield from experiment.requests(View(session, subject))


def _obstacles(session: Session, experiment: Experiment[Any], subject: Subject) -> Iterator[str]:
    with suppress(McdoError):  # as above
        yield from experiment.obstacles(View(session, subject))


def _reading(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]]) -> set[str]:
    """Encoders that will read class names, as far as that can be told before they are loaded."""
    unloaded = _Unloaded(session.settings)
    return {each.model for of in asked for each in _named(unloaded, *of) if each.needs_classes}


def _readable(found: Finding) -> Finding:
    """Whether the tokenizer is there as well."""
    try:
        if found.state == "ok":
            check_tokenizer(found.what)
    except McdoError as error:
        return Finding(found.what, "wrong", str(error))
    return found


def _loaded(session: Session, every: Sequence[str], at: _Said) -> tuple[list[Finding], float]:
    """Which encoders cannot be loaded, and the seconds that it took."""
    found, began = [], time.monotonic()
    for model in every:
        at.work = f"loading {model}"
        try:
            session.encoder(model)
        except McdoError as error:
            found.append(Finding(model, "wrong", str(error)))
    taken = time.monotonic() - began
    if taken > QUIET_S:
        found.append(Finding("loading", "told", f"{duration(taken)} for {', '.join(every)}"))
    return found, taken


def _sites(session: Session, model: str, seconds: float) -> Iterator[Finding]:
    """Whether the tower can be perturbed as asked, and what to know of it; not asked where that takes longer."""
    if session.remaining.rate(model) * torch.get_num_threads() * SITES_PASSES > seconds:
        return
    encoder = session.encoder(model)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", SiteWarning)
        try:
            live_sites(encoder, find_sites(encoder), session.settings.dropout)
        except McdoError as error:
            yield Finding(model, "wrong", str(error))
    yield from (Finding(model, "told", str(each.message)) for each in noted if issubclass(each.category, SiteWarning))


def _own_images(experiment: Experiment[Any]) -> list[int]:
    """How many of the session's images an experiment wants: every field that says so."""
    names = [name for name, what in experiment.sized.items() if what in ("num_images", "images_at_most")]
    return [getattr(experiment, name) for name in names if hasattr(experiment, name)]


def _short(asked: Sequence[tuple[Experiment[Any], Subject]], seen: Looked, spec: str) -> Iterator[Finding]:
    wanted = {experiment.key: max(_own_images(experiment), default=0) for experiment, _ in asked}
    more = {key: n for key, n in wanted.items() if n > seen.there}
    if more:
        named = ", ".join(f"{key} {n:,}" for key, n in sorted(more.items(), key=lambda each: each[1]))
        yield Finding("images", "told", f"{spec} holds {seen.there:,}, all of which are shown; wanted are: {named}")


def _few(seen: Looked) -> Iterator[Finding]:
    if seen.looked_at == seen.chosen and seen.originals < LEAST_ORIGINS:
        said = f"{seen.originals} originals are too few for one: at least {LEAST_ORIGINS}"
        yield Finding("verdict", "told", said)


def _classless(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], seen: Looked) -> Iterator[Finding]:
    """Experiments that need classes, where the images have none."""
    if len(seen.class_names) > 1:
        return
    needing = {
        experiment.key: None
        for experiment, subject in asked
        for each in _named(session, experiment, subject)
        if each.needs_classes and _of_session(each) and _has_text(session, each.model)
    }
    if needing:
        classes = "one class" if seen.class_names else "no classes (there are no directories)"
        names = f"{', '.join(needing)} {'needs' if len(needing) == 1 else 'need'}"
        leave = next(iter(needing)) if len(needing) == 1 else f"({' or '.join(needing)})"
        yield Finding(
            "images",
            "wrong",
            f"{session.settings.images} has {classes}, which {names}. Put them as FOLDER/CLASS/IMAGE.jpg, lay a "
            f"list of labels beside them or name them in a csv:FILE, or leave these tests out: -k 'not {leave}'",
        )


def _single(session: Session, seen: Looked) -> Iterator[Finding]:
    """What an encoder without text cannot be asked of these images: classes, or those of one original."""
    of = {each.model for each in session.planned if isinstance(each, Logits) and _of_session(each)}
    textless = ", ".join(sorted(model for model in of if not _has_text(session, model)))
    nothing = "so nothing is said of validity (-m prelim asks whether scores rise under degradations)"
    if textless and len(seen.class_names) < 2:
        yield Finding("images", "told", f"they have no labels and {textless} has no text, {nothing}")
    elif textless and seen.single:
        counted = f"{len(seen.single)} of {len(seen.class_names)} classes have one image here: {few_of(seen.single)}"
        many = len(seen.single) > MOST_UNNAMED * seen.chosen
        then = f"{nothing}; --num-images shows more" if many else "so these count as errors"
        yield Finding("images", "told", f"{counted}; {textless} has no text and takes two, {then}")


def _alike(session: Session, seen: Looked) -> Iterator[Finding]:
    """Classes that a tokenizer cannot tell apart."""
    needing = {each.model for each in session.planned if each.needs_classes and _of_session(each)}
    for model in sorted(needing) if len(seen.class_names) > 1 and not session.settings.from_store else ():
        prompts = [TEMPLATES[0].replace("{}", name) for name in seen.class_names]
        try:
            session.encoder(model).check_distinct(prompts, seen.class_names)
        except NotApplicableError:  # which is skipped by name
            continue
        except McdoError as error:
            yield Finding("images", "wrong", str(error))


def _has_text(session: Session, model: str) -> bool:
    """Whether an encoder reads prompts; not before it is loaded of one of which that cannot be told."""
    try:
        return session.encoder(model).has_text
    except McdoError:
        return reads_prompts(model) is True


def _of_session(request: Request[Any]) -> bool:
    shown = getattr(request, "shown", None)
    return isinstance(shown, Images) and shown.source is None


def _no_go(session: Session, models: Sequence[str], *, loaded: bool) -> list[Finding]:
    path = session.settings.reports / "phase1" / FILE
    chosen = tuple(model for model in session.settings.models if model in models)
    about = View(session, Subject(ALL_MODELS, chosen or session.settings.models))
    said = refusal(about, path.parent, loaded=loaded)
    return [] if said is None else [Finding("later phases", "wrong", said)]


def _bytes_stored(session: Session) -> int:
    total = 0
    for request in session.planned:
        if isinstance(request, Passes):
            with suppress(McdoError):
                config = request.config
                total += session.count(request.shown) * config.trials * len(config.passes) * _SCORES * 8
    return total


def _memory(session: Session) -> Iterator[Finding]:
    """Room beside what is loaded: pixels of every set of images, kept for the session, scores, and forward passes."""
    shown = {
        (request.model, each)
        for request in session.planned
        if isinstance(each := getattr(request, "shown", None), Images) and request.model
    }
    pixels = sum(session.count(each) * 3 * session.encoder(model).resolution ** 2 for model, each in shown)
    models = {request.model for request in session.planned if request.expected_passes(session) and request.model}
    passes = max(map(session.remaining.bytes_at_once, models), default=0)  # one model is at work at a time
    scores, free = _bytes_stored(session), available_memory()
    if free is not None and pixels + passes + scores > free:
        yield Finding(
            "memory",
            "wrong",
            f"beside the weights, the pixels of {len(shown)} sets of images take {size_of(pixels)}, a forward pass "
            f"{size_of(passes)} and the scores {size_of(scores)}, and {size_of(free)} are free: give a smaller "
            "--num-images or --batch-size, or fewer --models or tests at a time",
        )


def _expected(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]]) -> Iterator[Finding]:
    """Time of the plan and of what will follow from it, by a timed pass of each encoder."""
    passes: dict[str, int] = {}
    following = (each for experiment, subject in asked for each in foreseen(session, experiment, subject))
    for request in (*session.planned, *following):
        if request.model:
            passes[request.model] = passes.get(request.model, 0) + session.remaining.passes(request)
    rates = {model: session.remaining.rate(model) for model, count in passes.items() if count}
    slow = session.remaining.slow & set(rates)
    total = sum(rate * passes[model] for model, rate in rates.items() if model not in slow)
    less = "For less: --num-images, --trials, --passes or --protocol=auto:30min"
    if slow:
        each = ", ".join(f"{passes[model]:,} of {model}" for model in rates if model in slow)
        yield Finding(
            "time",
            "told",
            f"no pass of one image was over in {session.remaining.timing_s:.3g} s, and the first is the slowest: how "
            f"long {each} take is said with the first measurement. {less}",
        )
    if total < LONG_S:
        return
    each = ", ".join(
        f"{model} {passes[model]:,} passes of {rate * 1e3:.3g} ms" for model, rate in rates.items() if model not in slow
    )
    held = " without what the store holds" if session.store is not None else ""
    yield Finding(
        "time",
        "told",
        f"about {duration(total)} at most{held} ({each}, on {session.settings.device}). {less}",
    )


def _existing(path: Path) -> Path:
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
