"""What the tests of several ranks share."""

import json
import os
from typing import Any

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By the number of ranks, what each of them found: see `ranks.py`."""
    from benchmarks.jobs import finish
    from tests.training.jobs import ForkedJob

    shared = "PYTEST_XDIST_WORKER" in os.environ  # then the first of its processes finds out for all
    folder = tmp_path_factory.getbasetemp().parent / "ranks" if shared else tmp_path_factory.mktemp("ranks")
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            finish(ForkedJob(3, folder / "found.json", module="tests.training.ranks"))
            (folder / "done").touch()
    return json.loads((folder / "found.json").read_text())  # type: ignore[no-any-return]
