from __future__ import annotations

from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.images.class_names import _curated, _wordnet, class_names

ROOT = Path("folder")


def test_synset_ids_become_the_words_that_prompts_are_made_of() -> None:
    known = {"n01440764": "tench", "n01484850": "great white shark", "n02504458": "African bush elephant"}
    assert class_names(ROOT, list(known)) == tuple(known.values())


def test_directory_names_read_as_words() -> None:
    assert class_names(ROOT, ["red_fox", "n123", "Otter"]) == ("red fox", "n123", "Otter")


@pytest.mark.parametrize(
    ("directories", "names"),
    [
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ("Black footed Albatross", "Laysan Albatross")),  # CUB
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ("Chihuahua", "Japanese spaniel")),  # Stanford Dogs
        (["7_Eleven", "cat"], ("7 Eleven", "cat")),
        (["3.5 inch disk", "5.2 inch disk"], ("3.5 inch disk", "5.2 inch disk")),
        (["0", "1"], ("0", "1")),
        (["01_cat", "01_dog"], ("01 cat", "01 dog")),
    ],
)
def test_numbers_before_all_names_are_no_words_of_a_prompt(directories: list[str], names: tuple[str, ...]) -> None:
    assert class_names(ROOT, directories) == names


@pytest.mark.parametrize(
    ("directories", "said"),
    [
        (["01_cat", "02_dog", "03_dog"], "02_dog, 03_dog all read 'dog' to a text tower"),
        (["red_fox", "otter", "red fox"], "red_fox, red fox all read 'red fox'"),
    ],
)
def test_directories_that_read_the_same_are_refused(directories: list[str], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        class_names(ROOT, directories)


def test_a_synset_outside_the_thousand_classes_takes_its_first_lemma() -> None:
    assert class_names(ROOT, ["n00004475"]) == ("organism",)


def test_a_synset_in_no_table_is_named() -> None:
    with pytest.raises(McdoError, match=r"n99999999 looks like an ImageNet synset ID but is in no table"):
        class_names(ROOT, ["n01440764", "n99999999"])


def test_curated_names_and_lemmas_are_in_the_same_order() -> None:
    """One table has no IDs, so an order that is off by one would go unseen: nearly all rows must share a word."""
    lemmas, _ = _wordnet()

    def words(text: str) -> set[str]:
        return set(text.lower().replace(",", " ").replace("-", " ").split())

    shared = [bool(words(name) & words(lemmas[synset])) for synset, name in _curated().items()]
    assert len(shared) == 1000
    assert sum(shared) > 900


def test_the_two_pairs_of_equal_curated_names_are_told_apart() -> None:
    pairs = ["n03773504", "n04008634", "n04355933", "n04356056"]
    assert class_names(ROOT, pairs) == ("missile", "projectile", "sunglass", "sunglasses")
    assert class_names(ROOT, pairs[1:2]) == ("missile",)


def test_all_classes_of_every_table_have_different_names() -> None:
    for synsets in (list(_curated()), list(_wordnet()[0])):
        assert len(set(class_names(ROOT, synsets))) == len(synsets)


def test_names_are_composed_whichever_system_wrote_the_directory() -> None:
    assert class_names(Path(), ["cafe\u0301_noir", "tea"]) == ("caf\u00e9 noir", "tea")


@pytest.mark.parametrize("name", ["", " ", "_", "\u3164", "\u200b"])
def test_a_class_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(McdoError, match=r"class 1 has no name"):
        class_names(ROOT, ["cat", name])


@pytest.mark.parametrize("name", ["cat\u200b", "c\xadat", "\u2060cat"])
def test_names_that_look_the_same_are_refused_and_shown_to_differ(name: str) -> None:
    with pytest.raises(McdoError) as told:
        class_names(ROOT, ["cat", name])
    assert name not in str(told.value)
    assert "all read 'cat'" in str(told.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Crane", "crane"),
        ("red fox", "red_fox"),
        ("red fox", "red  fox"),
        ("red fox ", "Red Fox"),
        ("caf\u00e9", "cafe\u0301"),
        ("cats & dogs", "cats &amp; dogs"),
        ("red\u00a0fox", "red fox"),
    ],
)
def test_directories_that_are_one_prompt_are_refused(one: str, other: str, tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"the class directories .* all read .* to a text tower; rename or merge"):
        class_names(tmp_path, [one, "else", other])


def test_directories_that_differ_in_a_word_are_not() -> None:
    assert class_names(Path(), ["crane", "cranes", "crane fly"]) == ("crane", "cranes", "crane fly")
