"""The intact files, made once for all tests of this folder."""

import sys
from pathlib import Path

import pytest

from tests.robustness.originals import Originals, make_originals

collect_ignore_glob = ["*"] if sys.platform == "win32" else []  # no limits of resources, and no such signals and names


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Originals:
    return make_originals(tmp_path_factory.mktemp("originals") / "files")
