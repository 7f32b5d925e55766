"""Flags that may stand without their number."""

import pytest

from cctkit.cli.options import with_lone_flags


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train --class-weights", "train --class-weights=1.0"),
        ("train --class-weights images", "train --class-weights=1.0 images"),
        ("train --class-weights --epochs 3", "train --class-weights=1.0 --epochs 3"),
        ("train --balanced-sampling --class-weights", "train --balanced-sampling=1.0 --class-weights=1.0"),
        ("train --class-weights 0.5 images", "train --class-weights 0.5 images"),
        ("train --class-weights -1", "train --class-weights -1"),  # an error of its own: out of range
        ("train --class-weights=0.5", "train --class-weights=0.5"),
        ("train -- --class-weights", "train -- --class-weights"),
        ("", ""),
    ],
)
def test_a_flag_without_a_number_after_it_means_1(words: str, expected: str) -> None:
    assert with_lone_flags(words.split()) == expected.split()
