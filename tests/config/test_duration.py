"""Durations as users write them."""

import pytest

from cctkit.config.duration import duration_text, parse_duration, round_up_duration
from cctkit.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("1d2h3m4s", 93784)],
)
def test_a_duration_is_days_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time") == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "30x", "m", "30m1h", "1h1h", "-5m", "nan", "1e3s", "٣m", "1h30", 30, None, 1.5, True]
)
def test_what_is_no_duration_is_named_with_examples(text: object) -> None:
    with pytest.raises(UserError) as raised:
        parse_duration(text, "--time")
    assert raised.value.what == f"--time is {text!r}, expected a duration"
    assert raised.value.remedy == "such as 90s, 30m, 2h or 1h30m"


@pytest.mark.parametrize("text", ["0s", "0h0m", "366d", "999999999d"])
def test_a_duration_is_above_0_and_at_most_a_year(text: str) -> None:
    with pytest.raises(UserError, match="expected more than 0s and at most 365d"):
        parse_duration(text, "--time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2s"), (9.96, "10s"), (95, "95s"), (119.6, "2m"), (150, "2m30s"), (1800, "30m"), (3571, "1h"), (5460, "1h31m")],
)
def test_a_duration_is_printed_in_a_form_that_can_be_given_again(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert parse_duration(text, "--time") == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize(("seconds", "rounded"), [(1, 5), (41, 45), (120, 120), (121, 180), (7201, 7800)])
def test_a_proposed_duration_is_round_and_never_shorter(seconds: float, rounded: float) -> None:
    assert round_up_duration(seconds) == rounded
