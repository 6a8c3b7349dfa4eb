from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from reports_folder import JUDGEMENTS, NAME, RATE, VERDICT, figure, summary, write

from mcdo.cli import main
from mcdo.errors import McdoError
from mcdo.report import page as pages
from mcdo.report.figures import PANEL_SIZE
from mcdo.report.files import write_json
from mcdo.report.judgement import Judgement
from mcdo.report.page import Axis, _address, _lighter, shown, write_page
from mcdo.report.results import RATES, RUN, Reports
from mcdo.stats import Estimate

NASTY = '<script>alert("x")</script>'


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(folder: Path, tmp_path: Path, *, thumbnails: bool = True) -> Elements:
    return Elements(write_page(folder, tmp_path / "report.html", thumbnails).read_text(encoding="utf-8"))


def test_a_page_shows_verdict_claims_figure_and_pictures(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "reports"), tmp_path)
    rows = [row for row in page.all("tr") if "data-claim" in row]
    assert [(row["data-claim"], row["data-outcome"]) for row in rows] == [(j.claim, j.outcome) for j in JUDGEMENTS]
    assert all(words in page.text for words in ("GO", VERDICT["reason"], "1 passed, 0 failed, 1 skipped"))
    assert "0.50 [0.40, 0.60]" in page.text
    sources = [str(image["src"]) for image in page.all("img")]
    assert sum(source.startswith("data:image/png") for source in sources) == 12
    assert sum(source.startswith("data:image/svg+xml") for source in sources) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert "read in where" in page.text, "a reference of the source is shown as it is written"


@pytest.mark.parametrize(
    ("decision", "usable", "valid", "words"),
    [
        ("GO", "met", "met", "1 of 1 scores rank these images as before; 1 of these also follow what is ambiguous"),
        (
            "GO",
            "met",
            "undecided",
            "but that one of them follows what is ambiguous, beyond the feature norm, is not shown",
        ),
        ("GO", "undecided", "met", "at the largest T of the convergence sweep"),
        ("NO-GO", "not met", "met", "no score of these encoders ranks these images as before"),
        ("UNDECIDED", "undecided", "met", "it is not decided whether any score ranks these images as before"),
    ],
)
def test_the_first_sentence_says_what_the_verdict_means(
    tmp_path: Path, decision: str, usable: str, valid: str, words: str
) -> None:
    folder = write(tmp_path)
    cells = [{**VERDICT["cells"][0], "usable": usable}]
    validity = [{"model": "clip_tiny", "score": "trace_pre", "estimator": "mc", "outcome": valid}]
    said = {**VERDICT, "decision": decision, "cells": cells, "validity": validity, "less": ["T: 64 in place of 256"]}
    (folder / "phase1" / "verdict.json").write_text(json.dumps(said))
    text = page_of(folder, tmp_path).text
    assert words in text
    assert f"Why: {VERDICT['reason']}" in text
    assert "Nothing final: less than the published protocol was measured (T: 64 in place of 256)" in text
    assert "T = 64; each measured 10 times" in text


def test_what_is_by_model_is_said_of_each(tmp_path: Path) -> None:
    some = {"requested": "mlp", "live": ["a"], "roles": ["fc1"]}
    sites = {"one": [summary()["sites"], some], "two": some}
    facts = {model: {"encoder": model, "random_weights": model == "two", "device": "cpu"} for model in sites}
    write(tmp_path, "all_models", sites=sites, provenance={"versions": {"torch": "2"}, "models": facts})
    text = write_page(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one all: 2 linear maps; mlp: 1 linear maps; two mlp: 1 linear maps" in text
    assert "Random weights, which decide nothing: two." in text


def test_a_page_asks_for_nothing_beside_itself(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "reports"), tmp_path)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data"):
            target = attributes.get(name)
            assert not target or target.startswith(("#", "data:")), f"<{tag} {name}={target[:80]}>"
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])


@pytest.mark.parametrize("key", ["model", "claim", "beside", "question", "reason", "figure"])
def test_no_name_is_taken_for_html(tmp_path: Path, key: str) -> None:
    folder = write(tmp_path / "plain")
    count = len(page_of(folder, tmp_path).all("script"))
    claims = [each.as_dict() for each in JUDGEMENTS]
    claims[0].update({key: NASTY} if key in ("claim", "beside") else {})
    experiment = {**summary()["experiment"], **({"question": NASTY} if key == "question" else {})}
    extra = {NASTY: Estimate(1, 0, 2, 9).as_dict()} if key == "figure" else {}
    folder = write(tmp_path / "odd", NASTY if key == "model" else "m", claims=claims, experiment=experiment, **extra)
    if key == "reason":
        (folder / "phase1" / "verdict.json").write_text(json.dumps({**VERDICT, "reason": NASTY}))
    page = page_of(folder, tmp_path)
    assert len(page.all("script")) == count
    assert NASTY in page.text


def test_control_characters_in_names_are_shown_as_escapes(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "reports", "a\x1b[31m\u202eb"), tmp_path)
    assert "\x1b" not in page.text
    assert "a\\x1b[31m\\u202eb" in page.text


def test_a_run_that_did_not_end_whole_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "reports")
    whole = {"interrupted": False, "errors": [], "made": RATE["made"]}
    (folder / RUN).write_text(json.dumps(whole))
    assert "earlier run" not in page_of(folder, tmp_path).text
    errors = [f"tests/phase1/test_a.py::test_{i}[clip_tiny]" for i in range(7)]
    (folder / RUN).write_text(json.dumps({**whole, "interrupted": True, "errors": errors}))
    text = page_of(folder, tmp_path).text
    assert "the last run (2026-01-02 03:04:05 UTC) did not come to its end" in text
    assert "Nothing of 7 tests that ended with an error" in text
    assert "test_4[clip_tiny], …" in text
    (folder / RUN).write_text("{}")
    with pytest.raises(McdoError, match=r"run\.json"):
        Reports.read(folder)


def test_what_runs_of_another_perturbation_left_is_said(tmp_path: Path) -> None:
    def shown(model: str, **config: Any) -> str:
        return page_of(write(tmp_path / "reports", model, config={"seed": 42, **config}), tmp_path).text

    assert "Nothing of one perturbation" not in shown("clip_tiny", dropout={"kind": "Dropout", "p": 0.01})
    assert "Nothing of one perturbation" not in shown("siglip_tiny"), "one that perturbs nothing is of no other"
    said = f"(kind Dropout, p 0.01: {NAME} clip_tiny; kind Dropout, p 0.05: {NAME} siglip_tiny)"
    assert f"several were measured {said}" in shown("siglip_tiny", dropout={"kind": "Dropout", "p": 0.05})


OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "protocol": ("full", "full, num_images 60", {"protocol": "full", "sizes": {"num_images": 60}}),
    "precision": ("float32", "bfloat16", {"dtype": "bfloat16"}),
    "encoder clip_tiny": ("weights aa, preprocessing 32 px", "weights bb", {"weights": "bb", "preprocessing": ""}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_runs_of_other_sizes_precision_or_weights_left_is_said(what: str, tmp_path: Path) -> None:
    its, other, changed = OTHERS[what]
    made_by = {"encoder": "clip_tiny", "weights": "aa", "preprocessing": "32 px", "dtype": "float32"}

    def shown(model: str, **changed: Any) -> str:
        facts = {**summary(model)["provenance"], **{name: changed.get(name, made) for name, made in made_by.items()}}
        sizes = {"protocol": "full", "sizes": changed.get("sizes", {})}
        folder = write(tmp_path / "reports", model, provenance=facts, **sizes)
        identity = {"precision": "float32", "encoders": {"clip_tiny": made_by}}
        write_json(folder / "phase1" / "verdict.json", {**VERDICT, "protocol": "full", "identity": identity})
        return page_of(folder, tmp_path).text

    assert "Nothing of one" not in shown("clip_tiny") + shown("siglip_tiny")
    said = f"Nothing of one {what}: several were measured ({its}: the verdict, {NAME} clip_tiny; {other}: {NAME} siglip"
    assert said in shown("siglip_tiny", **changed)


def test_what_runs_of_other_images_or_seeds_left_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "reports"

    def shown(model: str, seed: int = 42, images: str = "digits", digest: str = "a", **more: Any) -> str:
        facts = {**summary(model)["provenance"], "images": digest}
        write(folder, model, config={"seed": seed}, image_set=images, provenance=facts, **more)
        write_json(folder / "phase1" / "verdict.json", {**VERDICT, "seed": 42})
        return page_of(folder, tmp_path).text

    assert "several image sets" not in (text := shown("clip_tiny")) + shown("siglip_tiny")
    assert "Nothing of the same images" not in text
    said = f"(digits, seed 42: the verdict, {NAME} clip_tiny; %s: {NAME} siglip_tiny)"
    assert f"measured on several image sets or seeds {said % 'folder:photos, seed 7'}" in shown(
        "siglip_tiny", 7, "folder:photos"
    )
    assert f"several image sets or seeds {said % 'digits, seed 7'}" in shown("siglip_tiny", 7)
    text = shown("siglip_tiny", digest="b")
    assert f"they changed between the models, under the same name: {NAME} (digits)" in text
    assert "several image sets" not in text
    assert "under the same name" not in shown(
        "siglip_tiny", digest="b", experiment={**summary()["experiment"], "phase": "phase2"}
    )


def test_sizes_are_said_beside_the_protocol(tmp_path: Path) -> None:
    folder = write(tmp_path / "reports")
    write_json(folder / "phase1" / "verdict.json", {**VERDICT, "sizes": {"num_images": 60, "passes": [4, 64]}})
    assert "quick, num_images 60, passes 4, 64" in page_of(folder, tmp_path).text


def test_versions_of_all_results_are_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "reports")
    write(
        folder, "siglip_tiny", provenance={**summary("siglip_tiny")["provenance"], "versions": {"torch": "3", "a": "1"}}
    )
    assert "torch 2 and 3, a 1" in page_of(folder, tmp_path).text


def test_costs_are_those_of_the_run_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "reports")
    unknown = page_of(folder, tmp_path).text
    assert "How long a pass takes is not known" in unknown
    (folder / RATES).mkdir()
    (folder / RATES / "clip_tiny.json").write_text(json.dumps(RATE))
    page = page_of(folder, tmp_path)
    assert "8,930,400 passes in 892 s, on cpu, 2 threads" in page.text
    costs = page.text[page.text.index("What it costs") :]
    # 64 passes of 892 s / 8 930 400
    assert re.search(r"clip_tiny\s*trace_pre\s*64\s*6\.39\s", costs)
    assert "make perf measures" in costs
    cells = [{**VERDICT["cells"][0], "usable": "undecided"}]
    (folder / "phase1" / "verdict.json").write_text(json.dumps({**VERDICT, "cells": cells}))
    assert "passes of each image" not in page_of(folder, tmp_path).text, "what is not usable has no cost"
    for wrong in ({"passes": 0}, {"passes": "many"}, {"seconds": -1.0}):
        (folder / RATES / "clip_tiny.json").write_text(json.dumps({**RATE, **wrong}))
        with pytest.raises(McdoError, match=r"clip_tiny\.json"):
            Reports.read(folder)


def test_a_figure_says_how_wide_it_is_at_its_natural_size(tmp_path: Path) -> None:
    (plot,) = [image for image in page_of(write(tmp_path / "reports"), tmp_path).all("img") if "style" in image]
    found = re.fullmatch(r"--natural: (\d+)px", str(plot["style"]))
    assert found is not None
    assert 900 < int(found[1]) <= 2 * 96 * PANEL_SIZE[0] + 20, "two panels, in pixels of 1/96 inch"


def test_pictures_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "reports")
    assert not [i for i in page_of(folder, tmp_path, thumbnails=False).all("img") if "png;" in str(i["src"])]
    monkeypatch.setattr(pages, "LARGEST", 1000)
    page = page_of(folder, tmp_path)
    assert not [image for image in page.all("img") if "png;" in str(image["src"])]
    assert "Thumbnails are left out: they would make the page larger" in page.text


def test_the_axis_holds_interval_estimate_and_bars() -> None:
    axis = Axis.of(Estimate(0.5, 0.4, 0.6, 9), (0.3,))
    assert axis is not None
    assert axis.bars[0] < axis.low < axis.value < axis.high
    # from 0.3 to 0.6 with 8 % of room on either side: (0.4 - 0.3 + 0.024) / (0.3 + 0.048)
    assert axis.low == pytest.approx(100 * 0.124 / 0.348, abs=0.01)
    assert Axis.of(Estimate(0.5, math.nan, math.nan, 9), (0.3,)) is None, "a bare point reads as exact"
    endless = Axis.of(Estimate(math.inf, 11, math.inf, 9), (10,))
    assert endless is not None
    assert endless.bars[0] < endless.low < endless.value == endless.high == 100
    assert shown(Estimate(math.inf, 11, math.inf, 9)) == "+∞ [11.00, +∞]"
    one_point = Axis.of(Estimate(1, 1, 1, 9), (1,))
    assert one_point is not None
    assert one_point.value == 50


def test_a_judgement_survives_its_file() -> None:
    for judgement in JUDGEMENTS:
        assert Judgement.of(json.loads(json.dumps(judgement.as_dict()))) == judgement


def test_summaries_are_found_in_files_of_one_and_of_all_subjects(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    (folder / "phase1" / NAME / "prompts.json").write_text('[{"prompt": "a list is no summary"}]')
    overall = {"session": "1", "results": {"a": summary("a"), "b": summary("b")}}
    (folder / "phase1" / NAME / "overall.json").write_text(json.dumps(overall))
    reports = Reports.read(folder)
    assert sorted(each.subject for each in reports.experiments) == ["a", "b"]
    assert {each.key[0] for each in reports.experiments} == {f"phase1/{NAME}"}


def test_reports_of_another_run_in_a_folder_within_are_not_part_of_it(tmp_path: Path) -> None:
    quick = tmp_path / "another"  # which comes before phase1
    write(quick, accuracy=Estimate(0.5, 0.4, 0.6, 10).as_dict())
    write(quick, "siglip_tiny", rho="damaged")
    with pytest.raises(McdoError, match=r"no reports of its own .*another.*_summary\.json is of a folder within"):
        Reports.read(tmp_path)
    write(tmp_path)
    (found,) = Reports.read(tmp_path).experiments
    assert (found.subject, found.summary["accuracy"]["value"]) == ("clip_tiny", 0.975)


def test_a_folder_without_reports_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(McdoError, match="holds no reports; run pytest -m phase1"):
        Reports.read(tmp_path)
    assert main(["report", "--reports", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 2
    assert "holds no reports" in capsys.readouterr().err


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, claims=[{"odd": 1}])
    with pytest.raises(
        McdoError, match=r"_summary\.json: claims\[0\] has the unknown key 'odd'.*no summary of this version"
    ):
        Reports.read(folder)


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = write(tmp_path / "reports"), tmp_path / "page.html"
    assert main(["report", "--reports", str(folder), "--out", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert main(["report", "--reports", str(folder), "--out", str(tmp_path)]) == 2
    assert "name a file for the page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.42, 0.4, 0.44, 9), "0.42 [0.40, 0.44]"),
        (Estimate(-0.0026, -0.0046, -0.0006, 9), "-0.003 [-0.005, -0.001]"),
        (Estimate(5.61e-4, 5.2e-4, 6.1e-4, 9), "0.00056 [0.00052, 0.00061]"),
        (Estimate(28.36, 23.77, 34.35, 9), "28.36 [23.77, 34.35]"),
        (Estimate(1.0, 1.0, 1.0, 9), "1.00 [1.00, 1.00]"),
    ],
)
def test_two_decimals_never_erase_a_figure(estimate: Estimate, text: str) -> None:
    assert re.sub(r" n=\d+$", "", str(estimate)) == text


def test_figures_are_written_in_three_formats_and_the_same_twice() -> None:
    assert figure().keys() == {"norms.png", "norms.svg", "norms.pdf"}
    assert figure() == figure.__wrapped__()


def test_a_figure_is_lighter_on_the_page_and_its_letters_keep_their_size() -> None:
    assert _lighter(b"M 12.345678 0.015625 L 1.999999,30.5 scale(0.015625) 1.2.345678") == (
        b"M 12.34 0.015625 L 1.99,30.5 scale(0.015625) 1.2.345678"
    )
    drawn = b"""<?xml version="1.0"?>
<svg><!-- A --> <metadata>who</metadata>
 <path id="m1" d="M 1 2
L 3 4"/>
 <g id="g"><use href="#m1" style="fill: #0a9; stroke: none"/></g></svg>
"""
    assert _lighter(drawn) == (
        b'<svg><path id="m1" d="M 1 2 L 3 4"/><g><use href="#m1" style="fill:#0a9;stroke:none"/></g></svg>'
    )


def test_the_address_of_a_figure_leaves_its_quotes_to_nobody() -> None:
    drawn = b"""<svg a="1 %" font-family="'A'">' & " onload='x'</svg>"""
    address = _address(drawn)
    assert not set("<>&'") & set(address)
    assert unquote_to_bytes(address.partition(",")[2]) == drawn
