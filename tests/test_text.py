"""Names from outside come out printable and readable; a mistyped name finds its neighbours."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cctkit.text import counted, json_text, nearest, safe_text, wrapped


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("bell\x07 back\x08 nul\x00 del\x7f", r"bell\x07 back\x08 nul\x00 del\x7f"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of ESC [
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udce9.png", r"\udce9.png"),  # a file name that is no UTF-8, as os.listdir gives it
        ("\ue000", r"\ue000"),
        ("\U000e0041", r"\U000e0041"),  # a tag character
    ],
)
def test_control_and_invisible_characters_are_escaped(raw: str, shown: str) -> None:
    assert safe_text(raw) == shown


@pytest.mark.parametrize(
    "name", ["otter", "maple tree", "Übergröße", "水族館", "дом", "فيل", "🦦", "a_b-c.d/e\\f", "[/]", "=cmd", ""]
)
def test_ordinary_names_are_left_alone(name: str) -> None:
    assert safe_text(name) == name


def test_every_character_comes_out_printable_or_as_a_blank() -> None:
    for start in (*range(0, 0x20000, 4096), 0xE0000, 0x10F000):  # the planes that have characters, and what lies at the end
        text = safe_text("".join(map(chr, range(start, start + 4096))), max_length=10**6)
        odd = {character for character in text if not character.isprintable()}
        assert {unicodedata.category(character) for character in odd} <= {"Zs"}


@given(st.text(), st.integers(min_value=1, max_value=30))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_the_maximum_length_is_kept(text: str, max_length: int) -> None:
    assert len(safe_text(text, max_length)) <= max_length


def test_what_is_cut_off_is_marked() -> None:
    assert safe_text("x" * 10, max_length=10) == "x" * 10
    assert safe_text("x" * 11, max_length=10) == "x" * 9 + "…"
    assert len(safe_text("x" * 1000)) == 200


def test_any_object_is_taken_by_its_text() -> None:
    assert safe_text(ValueError("bad\n")) == r"bad\n"
    assert safe_text(None) == "None"


@given(st.text())
@settings(max_examples=50, derandomize=True, deadline=None)
def test_safe_text_is_unchanged(text: str) -> None:
    once = safe_text(text, max_length=10**6)
    assert safe_text(once, max_length=10**6) == once


@pytest.mark.parametrize(
    ("typed", "best"),
    [("cct_6_3x", "cct_6_3x1"), ("cifar10O", "cifar10"), ("batch-size", "batch_size"), ("lerning_rate", "learning_rate")],
)
def test_the_nearest_name_comes_first(typed: str, best: str) -> None:
    known = ["cct_2_3x2", "cct_6_3x1", "cifar10", "digits", "batch_size", "learning_rate", "epochs"]
    assert nearest(typed, known)[0] == best


def test_nothing_is_suggested_for_an_unlike_name() -> None:
    assert nearest("zzzz", ["cct_2_3x2", "digits"]) == []
    assert nearest("", ["cct_2_3x2"]) == []
    assert nearest("digits", []) == []


def test_the_number_of_suggestions_is_limited() -> None:
    known = [f"cct_{layers}_3x1" for layers in (2, 4, 6, 7, 14)]
    assert len(nearest("cct_5_3x1", known)) == 3
    assert len(nearest("cct_5_3x1", known, count=2)) == 2


def test_the_known_names_may_come_from_any_iterable() -> None:
    assert nearest("epoch", (name for name in ("epochs", "lr"))) == ["epochs"]


@pytest.mark.parametrize(("typed", "best"), [("CIFAR100", "cifar100"), ("REPORT", "report")])
def test_the_case_of_letters_does_not_matter(typed: str, best: str) -> None:
    assert nearest(typed, ["cct_2_3x2", "cct_6_3x1", "cifar10", "cifar100", "report"])[0] == best


def test_one_of_a_noun_is_singular() -> None:
    assert [counted(number, "epoch") for number in (0, 1, 2, 1000)] == ["0 epochs", "1 epoch", "2 epochs", "1,000 epochs"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("\x1b[31m\x9b\x7f\n", r'"\u001b[31m\u009b\u007f\n"'),
        ("user\u202egnp", r'"user\u202egnp"'),
        ("caf\udce9", r'"caf\udce9"'),  # a file name that is no UTF-8
        ("\U000e0041", r'"\udb40\udc41"'),  # a tag character, as JSON's pair
        ("Übergröße 水族館 🦦", '"Übergröße 水族館 🦦"'),
    ],
)
def test_json_escapes_what_controls_a_terminal_and_gives_it_back(name: str, text: str) -> None:
    assert json_text(name) == text
    assert json.loads(text) == name


@given(st.dictionaries(st.text(st.characters()), st.lists(st.text(st.characters()))))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_json_is_printable_and_gives_any_text_back(value: dict[str, list[str]]) -> None:
    text = json_text(value, indent=2)
    assert {unicodedata.category(each) for each in text if not each.isprintable() and each != "\n"} <= {"Zs"}
    assert json.loads(text) == value
    assert json_text(value, ascii_only=True).isascii()


def test_lines_break_between_words_and_a_long_word_stays_whole() -> None:
    text = "  a well-known /path/that/is/longer/than/the/line word\n\nnext: it"
    assert wrapped(text, 14, further="  ") == "  a well-known\n    /path/that/is/longer/than/the/line\n    word\n\nnext: it"


def test_numbers_that_are_not_finite_become_null_in_json() -> None:
    value = {"a": [float("inf"), 1.0, {"b": float("nan")}], "c": (2,)}
    assert json_text(value) == '{"a": [null, 1.0, {"b": null}], "c": [2]}'
