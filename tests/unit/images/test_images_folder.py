from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import load_images
from mcdo.images.folder import folder
from mcdo.report.results import RUN
from mcdo.store.store import MARKER


def picture(path: Path, colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 9, 5 and 2 images, some of them deeper."""
    root = tmp_path_factory.mktemp("tree")
    for name, count in {"red_fox": 9, "blue": 5, "green": 2}.items():
        for i in range(count):
            picture(root / name / ("deep/er" if i % 3 == 1 else "") / f"{i}.png", (i, len(name), 0))
    return root


def test_ids_are_relative_paths_in_order_with_their_labels_and_names(tree: Path) -> None:
    images = load_images(f"folder:{tree}")
    paths = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png"))
    assert images.ids == tuple(paths)
    assert images.class_names == ("blue", "green", "red fox")
    assert images.labels is not None
    directories = ("blue", "green", "red_fox")
    assert [directories[label] for label in images.labels] == [path.split("/")[0] for path in paths]
    assert [image.getpixel((0, 0)) for image in images] == [
        (int(Path(path).stem), len(path.split("/")[0]), 0) for path in paths
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 16), st.integers(0, 100))
def test_a_sample_is_spread_sorted_and_leaves_ids_contents_and_class_names_alone(tree: Path, n: int, seed: int) -> None:
    everything, some = folder(tree), folder(tree, n, seed)
    assert len(some) == n
    assert list(some.ids) == sorted(some.ids)
    assert some.class_names == everything.class_names
    contents = dict(zip(everything.ids, everything.content_hashes, strict=True))
    assert all(contents[each] == content for each, content in zip(some.ids, some.content_hashes, strict=True))
    taken = Counter(each.split("/")[0] for each in some.ids)
    assert taken["green"] == min(2, taken["green"])
    full = {"red_fox": 9, "blue": 5, "green": 2}
    short = [taken[name] for name in full if taken[name] < full[name]]
    assert not short or max(taken.values()) - min(short) <= 1


def test_exact_copies_of_a_file_share_an_origin_which_no_n_changes(tmp_path: Path) -> None:
    for i, name in enumerate(("ant/0", "ant/1", "bee/0", "bee/1", "bee/2")):
        picture(tmp_path / f"{name}.png", (i % 3, 0, 0))  # ant/0 = bee/1, ant/1 = bee/2
    images = folder(tmp_path)
    named = dict(zip(images.ids, images.origins, strict=True))
    assert len(set(named.values())) == 3
    assert named["ant/0.png"] == named["bee/1.png"] != named["bee/0.png"]
    assert named["ant/1.png"] == named["bee/2.png"] != named["ant/0.png"]
    for n in range(1, 5):
        some = folder(tmp_path, n, seed=n)
        assert some.origins == tuple(named[each] for each in some.ids)
    assert images.origins == images.content_hashes


def test_asking_for_more_than_there_are_says_how_many_there_are(tree: Path) -> None:
    with pytest.raises(McdoError, match=r"holds 16 images, 17 were asked for"):
        folder(tree, 17)


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.PNG")
    picture(tmp_path / "cat" / ".hidden.png")
    picture(tmp_path / ".cache" / "b.png")
    for name in ("cat/notes.txt", "cat/labels.json", "README.md", "cat/no_suffix"):
        (tmp_path / name).write_text("x")
    assert folder(tmp_path).ids == ("cat/a.PNG",)


def test_our_own_store_and_reports_among_the_images_are_no_classes(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    for ours, sign in (("store", MARKER), ("reports", RUN)):
        picture(tmp_path / ours / "phase1" / "figure.png")
        (tmp_path / ours / sign).touch()
    images = folder(tmp_path)
    assert images.class_names == ("cat",)
    assert {each.path for each in images.skipped} == {"store", "reports"}


def test_directories_that_are_numbers_are_named_by_a_list(tmp_path: Path) -> None:
    root = tmp_path / "val"
    for name in ("1", "2", "10"):
        picture(root / name / "a.png")
    with pytest.raises(McdoError, match=r"numbers \(1, \.\.\.\), which name no class.*val.classes\.txt, one a line"):
        folder(root)
    lines = [f"plant {i}" for i in range(11)]
    (tmp_path / "classes.txt").write_text("\n".join(lines[:10]))  # beside it: of all splits
    with pytest.raises(McdoError, match=r"10: class 10, but .*classes\.txt names 10, from 0 on"):
        folder(root)
    (root / "classes.txt").write_text("\n".join([*lines, ""]))
    images = folder(root)
    assert images.ids == ("1/a.png", "10/a.png", "2/a.png")
    assert images.labels is not None
    assert [images.class_names[label] for label in images.labels] == ["plant 1", "plant 10", "plant 2"]
    picture(root / "other" / "a.png")  # a name among them: numbers may be names then
    assert folder(root).class_names == ("1", "10", "2", "other")


def test_names_beside_a_folder_that_is_no_split_may_be_of_another_data_set(tmp_path: Path) -> None:
    root = tmp_path / "plants"
    for name in ("0", "1"):
        picture(root / name / "a.png")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(McdoError, match=r"Put the names into .*plants.classes\.txt"):
        folder(root)
    (root / "classes.txt").write_text("oak\nelm\n")
    assert folder(root).class_names == ("oak", "elm")


def test_images_without_class_directories_are_unlabelled(tmp_path: Path) -> None:
    for name in "ba":
        picture(tmp_path / f"{name}.png")
    images = folder(tmp_path)
    assert images.ids == ("a.png", "b.png")
    assert images.labels is None
    assert images.class_names == ()
    assert images.select([1]).labels is None


def test_a_wrong_layout_is_an_error_that_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"nowhere does not exist; expected one directory per class"):
        folder(tmp_path / "nowhere")
    with pytest.raises(McdoError, match=r"neither class directories nor images; expected one directory"):
        folder(tmp_path)
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "cat" / "a.png")
    with pytest.raises(McdoError, match=r"class directory .*empty holds no images"):
        folder(tmp_path)
    picture(tmp_path / "empty" / "a.png")
    picture(tmp_path / "stray.png")
    with pytest.raises(McdoError, match=r"stray\.png lies beside class directories"):
        folder(tmp_path)
    with pytest.raises(McdoError, match=r"stray\.png is not a directory"):
        folder(tmp_path / "stray.png")


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    picture(root / "cat" / "sub" / "a.png")
    picture(elsewhere / "b.png")
    (root / "cat" / "sub" / "up").symlink_to(root / "cat")
    (root / "cat" / "top").symlink_to(tmp_path)
    (root / "dog").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)
    (root / "whole").symlink_to(root)
    images = folder(root)
    assert images.ids == ("cat/sub/a.png", "dog/b.png")
    assert images.class_names == ("cat", "dog")
    assert sorted(each.path for each in images.skipped) == ["cat/sub/up", "cat/top", "dog/again", "whole"]


def test_unreadable_files_are_all_named_before_anything_else_happens(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "good.png")
    (tmp_path / "cat" / "empty.jpg").touch()
    with pytest.raises(McdoError, match=r"cat/empty\.jpg: the file is empty.*--skip-unreadable"):
        folder(tmp_path)
    (tmp_path / "cat" / "gone.jpg").symlink_to("nowhere")
    with pytest.raises(McdoError, match=r"2 of 3 images cannot be used(.|\n)*empty\.jpg(.|\n)*gone\.jpg"):
        folder(tmp_path)


def test_skipping_drops_and_records_the_unreadable_and_keeps_labels_aligned(tmp_path: Path) -> None:
    picture(tmp_path / "ant" / "1.png")
    (tmp_path / "ant" / "0.png").write_text("no image")
    picture(tmp_path / "bee" / "2.png")
    images = load_images(f"folder:{tmp_path}", n=3, skip_unreadable=True)
    assert images.ids == ("ant/1.png", "bee/2.png")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    assert [(each.path, "no image" in each.reason) for each in images.skipped] == [("ant/0.png", True)]


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    with pytest.raises(McdoError, match="1 of 1 images cannot be used; none is readable"):
        folder(tmp_path, skip_unreadable=True)


def test_a_file_that_changes_after_loading_is_an_error_not_another_image(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png", (1, 1, 1))
    images = folder(tmp_path)
    picture(tmp_path / "cat" / "a.png", (2, 2, 2))
    with pytest.raises(McdoError, match=r"cat/a\.png .* content changed"):
        images.image(0)


def test_a_small_sample_decodes_only_what_was_chosen(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "cat" / f"{i}.png")
    chosen = folder(tmp_path, 2, seed=3).ids
    for path in (tmp_path / "cat").iterdir():
        if f"cat/{path.name}" not in chosen:
            path.write_bytes(b"broken")
    assert folder(tmp_path, 2, seed=3).ids == chosen
    with pytest.raises(McdoError, match="2 of 4 images cannot be used"):
        folder(tmp_path)
