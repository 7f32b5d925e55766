"""A run and its images, which the tests of prediction share."""

from pathlib import Path

import pytest

from cctkit.cli.app import run
from tests.conftest import write_images

SETTINGS = ["--epochs=1", "--batch-size=8", "--image-size=16", "--precision=float32", "--quiet"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images`: two classes of 20x12 pixels, neither square nor of the model's size; `run`: a finished run on them."""
    place = tmp_path_factory.mktemp("trained")
    write_images(place / "images", {"dark": 20, "light": 20}, size=(20, 12))
    assert run(["train", str(place / "images"), "--output", str(place / "run"), *SETTINGS]) == 0
    return place
