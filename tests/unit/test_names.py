from __future__ import annotations

import io
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdo.encoders import REGISTRY
from mcdo.errors import McdoError
from mcdo.names import as_bytes, columns, csv_cell, encodable, file_name, from_path, markdown, printable, say, to_path

any_text = st.text(st.characters())  # lone surrogates, controls and all


@pytest.mark.parametrize("name", [*REGISTRY, "exp0_nested_mc", "vit_base.v2", "lr1-last", "t_4"])
def test_a_plain_name_is_left_as_it_is(name: str) -> None:
    assert file_name(name) == name


def test_a_name_is_escaped_with_a_digest() -> None:
    assert file_name("local-dir:/data/mein Modell@2") == "local-dir-data-mein-Modell-2-4bf32c167292"
    assert file_name("local-dir:../../x").startswith("local-dir-x-")
    assert file_name("lr1/last") != file_name("lr1-last") == "lr1-last"


@given(any_text)
def test_every_name_is_one_portable_component(name: str) -> None:
    escaped = file_name(name)
    assert escaped.isascii()
    assert 0 < len(escaped) <= 100
    assert not set(escaped) & set("/\\:*?\"<>|'@ ")
    assert not escaped.startswith((".", "-"))
    assert not escaped.endswith(".")


@given(any_text, any_text)
def test_different_names_are_different_files(one: str, other: str) -> None:
    assert (file_name(one).casefold() == file_name(other).casefold()) == (one == other)


def test_names_that_differ_in_case_alone_are_different_files_where_case_is_ignored() -> None:
    names = ["LR1", "lr1", "Lr1", "local-dir:/data/A", "local-dir:/data/a"]
    assert len({file_name(name).casefold() for name in names}) == len(names)


def test_a_name_like_an_escaped_one_is_not_taken_for_it() -> None:
    escaped = file_name("lr1/last")
    assert file_name(escaped) != escaped


@given(any_text)
def test_bytes_of_names_never_fail_and_never_coincide(name: str) -> None:
    assert as_bytes(name).decode("utf-8", "surrogatepass") == name


@given(st.binary(max_size=20).filter(lambda raw: b"\0" not in raw))
def test_paths_that_are_no_utf8_survive_as_text(raw: bytes) -> None:
    assert os.fsencode(to_path(from_path(os.fsdecode(raw)))) == raw


@given(any_text)
def test_printable_text_is_utf8_and_xml(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    ElementTree.fromstring(f"<a>{shown.replace('&', '').replace('<', '')}</a>")
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("caf\udce9", "caf\\xe9"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("two\nlines", "two\\x0alines"),
        ("\x9b2J", "\\x9b2J"),
        ("cat\u200b", "cat\\u200b"),
        ("c\xada\u2060t\u3164", "c\\xada\\u2060t\\u3164"),
        ("cat\U000e0041", "cat\\U000e0041"),
        ("modèle 模型 ρ", "modèle 模型 ρ"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_line_ends_that_are_meant_stay() -> None:
    assert printable("two\nlines\x1b", kept="\n\t") == "two\nlines\\x1b"


@given(any_text)
def test_no_name_makes_a_line_of_its_own(name: str) -> None:
    shown = str(McdoError(f"{name}: is missing"))
    assert all(line[:1].isspace() for line in shown.split("\n")[1:] if line)
    assert "GO: fine" not in str(McdoError("a\nGO: fine\r\nGO: fine is missing")).splitlines()
    assert len(shown.split("\n")) == len(f"{name}: ".split("\n"))


@pytest.mark.parametrize("name", ["::add-mask::x", "  ::set-output name=x::y", "a\n::error::x", "a ##[add-mask]x"])
def test_no_line_is_a_command_to_github(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(name)
    for said in (str(McdoError(name)), capsys.readouterr().out):
        assert not any(line.lstrip().startswith("::") or "##[" in line for line in said.splitlines())
    assert str(McdoError("std::sort, #[")) == "std::sort, #["


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1+1", "\uff1d1+1", "\uff20SUM(A1)"])
def test_a_cell_of_csv_is_no_formula(name: str) -> None:
    assert csv_cell(name) == f"'{name}"
    assert csv_cell("a=1") == "a=1"


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("damaged: a\nGO: fine")
    assert capsys.readouterr().out == "damaged: a\\x0aGO: fine\n"


def test_messages_of_errors_are_printable() -> None:
    assert str(McdoError("\x1b]0;title\x07 in caf\udce9:\n  it")) == "\\x1b]0;title\\x07 in caf\\xe9:\n  it"


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("ρ ≥ 0.8 ± 0.1, modèle", "utf-8", "ρ ≥ 0.8 ± 0.1, modèle"),
        ("ρ ≥ 0.8 ± 0.1, modèle", "ascii", "rho >= 0.8 +- 0.1, mod\\xe8le"),
        ("ρ [0.1, –]", "latin-1", "rho [0.1, -]"),
        ("ρ", None, "ρ"),
    ],
)
def test_letters_that_a_terminal_lacks_are_spelled_out(text: str, encoding: str | None, shown: str) -> None:
    assert encodable(text, encoding) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_columns_are_aligned_in_the_letters_that_are_shown(encoding: str) -> None:
    lines = columns([("model", "ρ"), ("modèle\x1b", "0.5"), ("m", "–")], encoding)
    starts = {line.rindex(cell) for line, cell in zip(lines, (encodable("ρ", encoding), "0.5"), strict=False)}
    assert len(starts) == 1
    assert "\x1b" not in "".join(lines)


def test_a_line_is_said_in_the_letters_of_its_stream(tmp_path: Path) -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") as stream:
        say("ρ of mod\u00e8le\x07", stream)
        stream.seek(0)
        assert stream.read() == "rho of mod\\xe8le\\x07\n"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("clip_tiny", "clip_tiny"),
        ("a|b", "a&#124;b"),
        ("p < 0.001, > 2", "p < 0.001, > 2"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("two\nlines\x1b", "two\\x0alines\\x1b"),
        ("![](http://host/x)", "![]&#40;http://host/x)"),
    ],
)
def test_a_name_stays_inside_its_cell_of_a_markdown_table(name: str, cell: str) -> None:
    assert markdown(name) == cell
