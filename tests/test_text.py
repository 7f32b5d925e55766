"""Names from outside are printed inertly; mistyped ones find their neighbours."""

import pytest

from cctkit.text import nearest, safe_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [name]", "plain [name]"),
        ("日本語 é", "日本語 é"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\ttab", "two\\nlines\\ttab"),
        ("\u202eright to left", "\\u202eright to left"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("lone \udcff surrogate", "lone \\udcff surrogate"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_does_not_print_is_escaped_and_the_rest_is_kept(text: str, expected: str) -> None:
    assert safe_text(text) == expected


def test_long_names_are_cut() -> None:
    assert safe_text("x" * 300) == "x" * 199 + "…"


def test_the_nearest_names_come_first() -> None:
    assert nearest("cct_6_3x", ["cvt_6_4", "cct_6_3x2", "cct_6_3x1"])[0].startswith("cct_6_3x")
    assert nearest("zzzz", ["cct_6_3x1"]) == []
