"""Promise 6: whatever is in a file, it is refused in words that name it, or its results are those of the original."""

from pathlib import Path

import pytest

from tests.robustness.originals import Originals
from tests.robustness.readers import READERS, tally
from tests.robustness.spoilt import CASES, FORMATS, faults_of


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [5, pytest.param(150, marks=pytest.mark.slow)])
def test_no_mutant_is_read_with_other_results_or_raises_anything_else(
    name: str, count: int, originals: Originals, tmp_path: Path
) -> None:
    found = tally(READERS[name], originals, tmp_path / "mutants", seed=1, count=count)
    assert found.tried == count
    assert found.failures == []


def test_sixty_files_are_tried_through_the_command() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_off_is_an_error_that_names_it(name: str, originals: Originals, tmp_path: Path) -> None:
    assert list(faults_of(name, "cut off", originals, tmp_path / "here")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "cut off"])
def test_a_spoilt_file_is_an_error_that_names_it(name: str, kind: str, originals: Originals, tmp_path: Path) -> None:
    assert list(faults_of(name, kind, originals, tmp_path / "here")) == []
