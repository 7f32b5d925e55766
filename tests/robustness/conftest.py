"""The intact files, made once for all tests of this folder."""

from pathlib import Path

import pytest

from tests.robustness.originals import Originals, make_originals


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Originals:
    return make_originals(tmp_path_factory.mktemp("originals") / "files")
