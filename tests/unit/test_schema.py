"""Files that people write: what no schema can say is refused for all, and every mistake names file and place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.schema import LIMIT, NotNegative, Record, Size, read_bytes, read_csv, read_json, read_toml, read_yaml


class Part(Record, frozen=True):
    width: Size = 1
    rate: NotNegative = 0.5
    pool: Literal["avg", "map"] | None = None


class Whole(Record, frozen=True):
    name: str
    parts: tuple[Part, ...] = ()
    any: Any = None


class Row(Record, frozen=True):
    name: str
    rate: float


def saved(folder: Path, content: bytes | str, suffix: str = "json") -> Path:
    path = folder / f"file.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def refusal(read: Any, path: Path, kind: Any = Whole) -> str:
    with pytest.raises(McdoError) as caught:
        read(path, kind)
    said = str(caught.value)
    assert str(path) in said
    return said.partition(str(path))[2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"name": 3}', ": name is 3: Expected str, got int"),
        ('{"parts": []}', " lacks the key name"),
        ('{"name": "a", "parts": [{}, {"width": 0}]}', ": parts[1].width is 0: Expected int >= 1"),
        ('{"name": "a", "parts": [{"rate": -1}]}', ": parts[0].rate is -1: Expected float >= 0.0"),
        ('{"name": "a", "parts": [{"pool": "mop"}]}', ": parts[0].pool is 'mop': say 'avg', 'map'"),
        ('{"name": "a", "parts": [{"widht": 1}]}', ": parts[0] has the unknown key 'widht'; the nearest: width"),
        ('{"name": "a", "parts": [{"rate": NaN}]}', ": parts[0].rate is nan, which is no number"),
        ('{"name": "a", "parts": [{"rate": 1e400}]}', ": parts[0].rate is inf, which is no number"),
        ('{"name": "a", "any": ' + "9" * 400 + "}", ": any is a whole number of 1329 bits"),
        pytest.param('{"name": "a", "any": ' + "9" * 5000 + "}", " is not JSON: Exceeds the limit", id="digits"),
        ('{"name": "a", "parts": [{"width": 1, "width": 1}]}', ": the key parts[0].width occurs twice"),
        ('{"name": "a\\u0000"}', ": name holds a NUL"),
        ('{"name": "a\\ud800"}', ": name holds a NUL or a letter that is none"),
        ('{"a\\udfff": 1, "name": "a"}', " holds a NUL or a letter that is none"),
        ('{"name": "a"', ", line 1, column 13 is not JSON"),
        ("", ", line 1, column 1 is not JSON"),
        pytest.param("[" * 10**5, " is nested too deeply", id="brackets"),
        pytest.param('{"name": "a", "any": ' + '{"a": ' * 10**4 + "1" + "}" * 10001, " is nested too deeply", id="{"),
        ('{"name": "a", "any": ' + "[" * 200 + "]" * 200 + "}", " is nested too deeply, at any[0][0]"),
        ("[]", " is []: Expected object, got array"),
        ("\ufeff{}", " is not JSON"),
        ('{"name": "a"}'.encode("utf-16"), " is UTF-16"),
        ('{"name": "a"}'.encode("utf-16-le"), " is UTF-16"),
        (b'{\n"name": "\xe9"}', ", line 2 is no UTF-8"),
        pytest.param('{"name": "' + "a" * LIMIT + '"}', f" has {LIMIT + 12} bytes; at most {LIMIT} are read", id="as"),
    ],
)  # fmt: skip
def test_json_that_is_refused(content: bytes | str, said: str, tmp_path: Path) -> None:
    assert said in refusal(read_json, saved(tmp_path, content))


def test_names_that_are_no_utf8_pass_where_they_may(tmp_path: Path) -> None:
    path = saved(tmp_path, '{"name": "a\\udcff"}')
    assert read_json(path, Whole, any_name=True).name == "a\udcff"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: [1, 2]", ": name is [1, 2]: Expected str, got array"),
        ("name: a\nname: b", ", line 2 is not YAML as it is read here: the key 'name' occurs twice"),
        ("a: &a [x]\nname: *a", ", line 2 is not YAML as it is read here: an alias (*) is not followed"),
        ("name: !!python/name:os.system x", ", line 1 is not YAML as it is read here"),
        ("1: a", ", line 1 is not YAML as it is read here: "),
        ("? [1]\n: a", "a key must be text"),
        ("name: a\nany: .nan", ": any is nan, which is no number"),
        ("name: a\nany: 0x" + "f" * 5000, ": any is a whole number of 20000 bits"),
        ("name: 2026-99-99", " is not YAML: month must be in 1..12"),
        ("name: " + "[" * 3000, " is nested too deeply"),
        ("name: a\n\tb: c", ", line 2 is not YAML"),
        pytest.param("- " * 2**16, " has 131072 bytes; at most 65536 are read", id="long"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(content: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(read_yaml, saved(tmp_path, content, "yaml"))


def test_yaml_that_is_read(tmp_path: Path) -> None:
    assert read_yaml(saved(tmp_path, "name: a\nparts: [{rate: 1e-4}]", "yaml"), Whole).parts[0].rate == 1e-4
    assert read_yaml(saved(tmp_path, "# nothing\n", "yaml"), Part) == Part()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name = 1", ": name is 1: Expected str, got int"),
        ('name = "a"\nname = "b"', " is not TOML: "),
        ('name = "a"\nany = nan', ": any is nan, which is no number"),
        ("name = " + "[" * 3000, " is "),
    ],
)
def test_toml_that_is_refused(content: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(read_toml, saved(tmp_path, content, "toml"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,rate\na,1\nb,x", ", line 3: rate is 'x': Expected float, got str"),
        ("name,rate\na,nan", ", line 2: rate is nan, which is no number"),
        ("name,rate\na,1e999", ", line 2: rate is '1e999': Number out of range"),
        ("name,rate\na", ", line 2 has 1 cells under 2 columns"),
        ("name,rate\na,1,2", ", line 2 has 3 cells under 2 columns"),
        ("name,rate,rate\na,1,2", ", line 1: the column 'rate' occurs twice"),
        ("name,rata\na,1", ", line 1: the column rate is missing; the nearest there: rata"),
        ("name;rate\na;1,5", ", line 1: columns are separated by semicolons; save it with commas"),
        ("name\trate\na\t1", ", line 1: columns are separated by tabs"),
        ("", ", line 1: the column name is missing; the nearest there: no line at all"),
        ('name,rate\n"a,1', ", line 2 is not CSV"),
        ("name,rate\n" + "a" * 200_000 + ",1", " is not CSV: field larger than field limit"),
        ("name,rate\na,1\n" + " " * 5000 + "b\0,1", ", line 3 holds a NUL"),
    ],
)  # fmt: skip
def test_csv_that_is_refused(content: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(read_csv, saved(tmp_path, content, "csv"), Row)


def test_csv_with_a_mark_of_a_spreadsheet_and_other_columns(tmp_path: Path) -> None:
    path = saved(tmp_path, "\ufeffname,rate,note\r\na,1,x\r\n\r\n", "csv")
    assert read_csv(path, Row) == [(2, Row(name="a", rate=1.0))]


def test_what_is_no_file_of_sense(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**33)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent", tmp_path / "a\0b", sparse):
        with pytest.raises(McdoError):
            read_json(path, Whole)
    with pytest.raises(McdoError, match="8589934592 bytes"):
        read_bytes(sparse, limit=LIMIT)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_json_is_read_or_refused(value: Any) -> None:
    from mcdo.schema import checked, parse_json

    try:
        found = parse_json(json.dumps(value), "here")
    except McdoError as error:
        assert str(error).startswith("here")  # noqa: PT017
        return
    assert found == value
    try:
        assert isinstance(checked(found, Whole, "here"), Whole)
    except McdoError as error:
        assert str(error).startswith("here")  # noqa: PT017
