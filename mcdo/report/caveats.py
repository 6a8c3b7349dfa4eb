"""What a folder of reports is not: of one run, whole, of one protocol. For whoever reads or compares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcdo.names import few_of
from mcdo.report.results import LastRun, Reported, Reports

MOST_NAMED = 5
"""Tests with an error that are named."""


def caveats(reports: Reports) -> list[str]:
    """A sentence for each thing in which results differ that are told as one, and for what the last run left out."""
    return [*_of_several_runs(reports), *_of_several(reports), *_unfinished(reports.last_run)]


def _of_several_runs(reports: Reports) -> list[str]:
    """What earlier runs left here that were about other images, or another seed, than the rest."""
    of: dict[tuple[str, str], list[str]] = {}
    verdict = reports.verdict or {}
    if verdict.keys() >= {"images", "seed"}:
        of[flat(verdict["images"]), flat(verdict["seed"])] = ["the verdict"]
    shown: dict[tuple[str, ...], set[str]] = {}
    for each in reports.experiments:
        config, name = each.summary["config"], each.summary.get("image_set")
        if not name:  # by an older version, or it looks at none of the session's images
            continue
        key = flat(name), flat(config.get("seed"))
        of.setdefault(key, []).append(f"{each.experiment['name']} {each.subject}")
        prints = {str(facts["images"]) for facts in provenances(each) if facts.get("images")}
        if each.experiment["phase"] == "phase1" and len(prints) == 1:  # which shows every model the same
            shown.setdefault((each.experiment["name"], *key, flat(config)), set()).update(prints)
    said = []
    if len(of) > 1:
        named = "; ".join(f"{images}, seed {seed}: {few_of(whose)}" for (images, seed), whose in of.items())
        said.append(f"Nothing of one run: what stands here was measured on several image sets or seeds ({named}).")
    if others := [f"{name} ({images})" for (name, images, *_), prints in shown.items() if len(prints) > 1]:
        said.append(
            f"Nothing of the same images: they changed between the models, under the same name: {few_of(others)}."
        )
    return said


def _of_several(reports: Reports) -> list[str]:
    """Which results are of another perturbation, protocol or precision than the rest, or of an encoder that changed.

    The head of the page names one of each. What a result does not say, as one of an older version, is passed over.
    """
    held: dict[str, dict[str, dict[str, None]]] = {}

    def note(what: str, value: str, whose: str) -> None:
        if value:
            held.setdefault(what, {}).setdefault(value, {})[whose] = None

    def note_all(whose: str, of: Mapping[str, Any], precision: Any, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        sizes = flat(of.get("sizes", {}))
        note("protocol", f"{of.get('protocol', '')}{', ' if sizes else ''}{sizes}", whose)
        note("precision", flat(precision), whose)
        for model, facts in encoders.items():
            made_by = {name: str(facts[name])[:12] for name in ("weights", "architecture") if facts.get(name)}
            note(f"encoder {model}", flat({**made_by, "preprocessing": facts.get("preprocessing")}), whose)

    if reports.verdict is not None:
        judged = reports.verdict.get("identity", {})
        note_all("the verdict", reports.verdict, judged.get("precision", ""), judged.get("encoders", {}))
    for each in reports.experiments:
        whose = f"{each.experiment['name']} {each.subject}"
        note("perturbation", flat(each.summary["config"].get("dropout", "")), whose)  # none of what perturbs nothing
        for facts in provenances(each):
            encoders = {str(facts["encoder"]): facts} if facts.get("encoder") else {}
            note_all(whose, each.summary, facts.get("dtype", ""), encoders)
    return [
        f"Nothing of one {what}: several were measured "
        f"({'; '.join(f'{value}: {few_of([*whose])}' for value, whose in of.items())})."
        for what, of in held.items()
        if len(of) > 1
    ]


def _unfinished(last: LastRun | None) -> list[str]:
    """What the last run did not come to measure."""
    if last is None or last.whole:
        return []
    missing = "is missing here, or was measured by an earlier run"
    said = []
    if last.interrupted:
        when = moment(last.made["time"])
        said.append(
            f"Nothing whole: the last run ({when}) did not come to its end, and what it had not measured {missing}."
        )
    if last.errors:
        tests = "1 test" if len(last.errors) == 1 else f"{len(last.errors)} tests"
        named = ", ".join(name.rpartition("::")[2] for name in last.errors[:MOST_NAMED])
        more = ", …" if len(last.errors) > MOST_NAMED else ""
        said.append(f"Nothing of {tests} that ended with an error, whose result {missing}: {named}{more}.")
    return said


def provenances(reported: Reported) -> list[Mapping[str, Any]]:
    """Of the summary, and of each of its models where there are several."""
    facts = reported.summary["provenance"]
    return [facts, *facts.get("models", {}).values()]


def flat(value: Any) -> str:
    """JSON as one line of text; what is not given is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(each)}" for key, each in value.items() if each not in (None, "", [], {}))
    return ", ".join(map(flat, value)) if isinstance(value, list) else str(value)


def moment(time: str) -> str:
    """``2026-01-02 03:04:05 UTC``, of what the files say."""
    return time.replace("T", " ").replace("+00:00", " UTC")
