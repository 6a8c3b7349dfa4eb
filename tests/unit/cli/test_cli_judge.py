from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy

from mcdo.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    score, norm = rng.normal(size=150), rng.normal(size=150)
    error = (rng.uniform(size=150) < scipy.stats.norm.cdf(score - 0.5)).astype(int)
    entropy = score + rng.normal(size=150)
    rows = [
        f"{i // 2},{s},{n},{e},{h},word" for i, (s, n, e, h) in enumerate(zip(score, norm, error, entropy, strict=True))
    ]
    path = tmp_path / "scores.csv"
    path.write_text("plant,mine,norm,wrong,entropy,note\n" + "\n".join(rows) + "\n")
    return path


def test_columns_alone_are_judged(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.metrics import roc_auc_score

    out = tmp_path / "judged.json"
    roles = ["--error=wrong", "--entropy=entropy", "--norm=norm", "--origin=plant", "--trivial=norm", f"--out={out}"]
    assert main(["judge", str(table), *roles]) == 0
    said = capsys.readouterr().out
    assert "150 images of 75 originals" in said
    assert "note" not in said
    found = json.loads(out.read_text())
    columns = np.genfromtxt(table, delimiter=",", names=True, usecols=range(5))
    mine = found["measures"]["mine"]
    assert mine["auroc_error"]["value"] == pytest.approx(roc_auc_score(columns["wrong"], columns["mine"]))
    assert mine["rho_entropy"]["value"] == pytest.approx(scipy.stats.spearmanr(columns["mine"], columns["entropy"])[0])
    assert mine["auroc_error"]["n"] == 75
    assert found["ahead"]["mine at error"]["baseline"] == "norm"


def test_images_of_another_kind_are_rows_too(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    kinds = ["foreign", *(str(int(i < 40)) for i in range(150))]
    table.write_text("\n".join(f"{line},{kind}" for line, kind in zip(lines, kinds, strict=True)))
    assert main(["judge", str(table), "--foreign=foreign", "--scores=mine"]) == 0
    said = capsys.readouterr().out
    assert "110 images" in said
    assert "auroc_foreign" in said


def test_of_images_of_another_kind_nobody_knows_the_answer(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their cells of error, entropy and norm are blank, as pandas leaves them; those of the judged rows may not be."""
    head, *rows = table.read_text().splitlines()
    known = [f"{row},0" for row in rows[:100]]
    far = [",".join([*row.split(",")[:2], "", "", "", row.split(",")[5], "1"]) for row in rows[100:]]
    roles = ["--error=wrong", "--entropy=entropy", "--norm=norm", "--scores=mine"]
    found = []
    for lines in ([f"{head},far", *known, *far], [head, *rows[:100]]):
        table.write_text("\n".join(lines))
        out = tmp_path / "out.json"
        asked = ["--foreign=far"] if "far" in lines[0] else []
        assert main(["judge", str(table), *roles, *asked, f"--out={out}"]) == 0
        found.append(json.loads(out.read_text())["measures"]["mine"])
    assert "auroc_foreign" in found[0]
    assert {name: found[0][name] for name in found[1]} == found[1]
    blank = ",".join([*rows[0].split(",")[:3], "", *rows[0].split(",")[4:], "0"])
    table.write_text("\n".join([f"{head},far", *far, *known, blank]))
    assert main(["judge", str(table), *roles, "--foreign=far"]) == 2
    assert "line 152, wrong: '' is neither 0 nor 1" in capsys.readouterr().err


def test_a_score_that_is_read_the_wrong_way_is_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Larger is less sure; a confidence lies below chance by all measures, and a score that wavers is not reversed."""
    head, *rows = table.read_text().splitlines()
    sure = [f"{row},{-float(row.split(',')[1])},{i % 7}" for i, row in enumerate(rows)]
    table.write_text("\n".join([f"{head},sure,dull", *sure]))
    roles = ["--error=wrong", "--entropy=entropy", "--origin=plant"]
    assert main(["judge", str(table), *roles, "--scores=mine,sure,dull", "--trivial=norm"]) == 0
    said = capsys.readouterr().out
    assert "larger where the model is less sure" in said
    assert "(larger is better, chance 0.5)" in said
    (line,) = (line for line in said.splitlines() if "lies below chance" in line)
    assert line.startswith("sure lies below chance (rho_entropy -0.")
    assert "auroc_error 0." in line
    assert main(["judge", str(table), *roles, "--scores=mine", "--trivial=sure"]) == 0
    assert "below chance" not in capsys.readouterr().out, "what costs nothing is read whichever way is better"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (2, "2 rows to judge scores by; at least 3 are needed"),
        (1, "1 rows to judge scores by; at least 3 are needed"),
        (3, "all rows of another kind are of one original, '0'; at least two are needed"),
    ],
)
def test_fewer_rows_than_have_a_ranking_are_refused(
    table: Path, capsys: pytest.CaptureFixture[str], rows: int, said: str
) -> None:
    head, first, second, *_, last = table.read_text().splitlines()
    known = [f"{row},0" for row in (first, second, last)[:rows]]
    far = [f"{first},1", f"{second},1"]
    table.write_text("\n".join([f"{head},far", *known, *far]))
    assert main(["judge", str(table), "--entropy=entropy", "--foreign=far", "--scores=mine", "--origin=plant"]) == 2
    assert said in capsys.readouterr().err


def test_copies_without_origins_are_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fifty names for one photo are one draw; without origins each row counts, so the table has to say so."""
    roles = ["--error=wrong", "--entropy=entropy", "--norm=norm", "--scores=mine"]
    assert main(["judge", str(table), *roles]) == 0
    assert "repeat" not in capsys.readouterr().out
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *rows, *rows[:20]]))
    assert main(["judge", str(table), *roles]) == 0
    assert "20 of 170 rows repeat entropy and norm of another row" in capsys.readouterr().out
    assert main(["judge", str(table), *roles, "--origin=plant"]) == 0
    assert "repeat" not in capsys.readouterr().out


def test_originals_of_very_unequal_sizes_are_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = table.read_text().splitlines()
    roles = ["--scores=mine", "--entropy=entropy", "--origin=plant"]
    assert main(["judge", str(table), *roles]) == 0
    assert "count as" not in capsys.readouterr().out
    table.write_text("\n".join([head, *(f"{max(0, i - 75)},{row.split(',', 1)[1]}" for i, row in enumerate(rows))]))
    assert main(["judge", str(table), *roles]) == 0
    assert "75 originals count as 4, for few of them have most of the rows" in capsys.readouterr().out


def test_rows_that_share_an_id_are_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials below each other, image,trial,score, are as many rows as there are trials of each image."""
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"image,{head}", *(f"{i // 3}.png,{row}" for i, row in enumerate(rows))]))
    assert main(["judge", str(table), "--error=wrong", "--scores=mine"]) == 0
    assert "100 of 150 rows repeat image of another row" in capsys.readouterr().out
    assert main(["judge", str(table), "--error=wrong", "--scores=mine", "--origin=image"]) == 0
    said = capsys.readouterr().out
    assert "150 images of 50 originals" in said
    assert "repeat" not in said


def test_a_score_that_holds_the_answer_is_asked_about(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = table.read_text().splitlines()
    rows = [f"{i},{row},{int(row.split(',')[3]) + 0.001 * i}" for i, row in enumerate(rows)]
    table.write_text("\n".join([f"id,{head},leak", *rows]))
    assert main(["judge", str(table), "--error=wrong", "--origin=plant", "--trivial=norm"]) == 0
    said = capsys.readouterr().out
    assert "leak never errs at auroc_error: does it hold the answer?" in said
    assert not any(line.startswith("id") for line in said.splitlines()), "an id is no score"
    assert "0.00, no interval (a perfect order" in said, "a perfect order has no excess, to the last bit"


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["--error=wong"], "no column 'wong'; the nearest: wrong"),
        (["--error=entropy"], "is neither 0 nor 1"),
        (["--error=note"], "line 2, note: 'word' is neither 0 nor 1, nor True nor False"),
        (["--error=wrong", "--scores=note"], "line 2, note: 'word' is no finite number"),
        ([], "name --error, --entropy or --foreign"),
    ],
)
def test_what_is_wrong_is_named(table: Path, capsys: pytest.CaptureFixture[str], roles: list[str], said: str) -> None:
    assert main(["judge", str(table), *roles]) == 2
    assert said in capsys.readouterr().err


def test_a_column_of_numbers_with_a_word_in_it_is_not_passed_over(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table.read_text().splitlines()
    plant, _, rest = lines[3].split(",", 2)
    table.write_text("\n".join([*lines[:3], f"{plant},0;5,{rest}", *lines[4:]]))
    assert main(["judge", str(table), "--error=wrong"]) == 2
    assert "line 4, mine: '0;5' is no finite number; name the columns to judge" in capsys.readouterr().err


def test_a_column_of_hashes_is_no_score(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},hash", *(f"{row},{2**62 + i}" for i, row in enumerate(rows))]))
    assert main(["judge", str(table), "--error=wrong"]) == 2
    assert f"hash: {2**62} and {2**62 + 1} are one number in float64; are they ids" in capsys.readouterr().err
    assert main(["judge", str(table), "--error=wrong", "--scores=mine"]) == 0


WRITINGS = ("1,234.5", "1.234,5", "1,234,567", "1\u00a0234", "1\u2019234.5", "\u22120.5", "1e\u22123")
WORDS = ("28.11.2026", "2026-11-28", "10.0.0.1", "1.2.3", "12:30", "12 px")


@pytest.mark.parametrize(
    ("name", "cell", "said"),
    [
        *(("foreign", flag, f"foreign is {flag} in every row") for flag in "01"),
        *(("sum", many, "line 2, sum: ") for many in WRITINGS),  # numbers in another writing
        *(("made", word, "") for word in WORDS),
        ("Unnamed: 0", "", ""),  # the index of pandas
    ],
)
def test_a_further_column_is_refused_or_no_score(
    table: Path, capsys: pytest.CaptureFixture[str], name: str, cell: str, said: str
) -> None:
    head, *rows = table.read_text().splitlines()
    lines = [f"{name},{head}", *(f'"{cell or i}",{row}' for i, row in enumerate(rows))]
    table.write_text("\n".join(lines), encoding="utf-8")
    roles = ["--error=wrong", *(["--foreign=foreign"] if name == "foreign" else [])]
    assert main(["judge", str(table), *roles]) == (2 if said else 0)
    printed = capsys.readouterr()
    assert said in printed.err
    assert said or name not in printed.out


def test_flags_are_read_as_pandas_writes_them(table: Path, tmp_path: Path) -> None:
    found = []
    for word in ({}, {"0": "False", "1": "True"}):
        lines = [line.split(",") for line in table.read_text().splitlines()]
        table.write_text("\n".join(",".join([*row[:3], word.get(row[3], row[3]), *row[4:]]) for row in lines))
        assert main(["judge", str(table), "--error=wrong", "--scores=mine", f"--out={tmp_path / 'out.json'}"]) == 0
        found.append((tmp_path / "out.json").read_text())
    assert "True" in table.read_text()
    assert found[0] == found[1]


def test_a_row_without_its_original_is_refused(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All rows without one would count as a single draw; and a blank behind a name makes no other original."""
    head, *rows = table.read_text().splitlines()
    asked = ["judge", str(table), "--error=wrong", "--scores=mine", "--origin=plant"]
    table.write_text("\n".join([head, *(row.replace(",", " ,", 1) if i % 2 else row for i, row in enumerate(rows))]))
    assert main(asked) == 0
    assert "150 images of 75 originals" in capsys.readouterr().out
    table.write_text("\n".join([head, rows[0], "," + rows[1].partition(",")[2], *rows[2:]]))
    assert main(asked) == 2
    assert "line 3, plant: no original is named" in capsys.readouterr().err


def test_a_torn_table_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "torn.csv"
    path.write_text("a,b\n1,2\n3\n")
    assert main(["judge", str(path), "--error=a"]) == 2
    assert "line 3 has 1 cells under 2 columns" in capsys.readouterr().err


def test_a_folder_is_no_file_to_write(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path, Path("/")):
        assert main(["judge", str(table), "--error=wrong", f"--out={out}"]) == 2
        said = capsys.readouterr()
        assert f"{out} is a folder; name a file in it" in said.err
        assert not said.out, "before anything is judged"
