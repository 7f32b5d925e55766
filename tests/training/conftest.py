"""What the tests of several ranks share."""

import json
from typing import Any

import pytest


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By the number of ranks, what each of them found: see `ranks.py`."""
    from tests.training.jobs import ForkedJob, finish

    path = tmp_path_factory.mktemp("ranks") / "found.json"
    finish(ForkedJob(3, path, module="tests.training.ranks"))
    return json.loads(path.read_text())  # type: ignore[no-any-return]
