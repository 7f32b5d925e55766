"""Promise 6: whatever is in a file, it is refused in words, or its results are those of the original."""

from pathlib import Path

import pytest

from tests.robustness.originals import Originals
from tests.robustness.readers import READERS, tally


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_no_mutant_is_read_with_other_results_or_raises_anything_else(
    name: str, count: int, originals: Originals, tmp_path: Path
) -> None:
    found = tally(READERS[name], originals, tmp_path / "mutants", seed=1, count=count)
    assert found.tried == count
    assert found.failures == []
