"""`--group-by`: the images of a group stay in one part of every split made here, under every seed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cctkit.cli.app import run
from cctkit.config.settings import DataConfig
from cctkit.data.check.check import check_dataset
from cctkit.data.dataset import load_dataset
from cctkit.data.grouping import group_keys, joined
from cctkit.data.splits import Dataset
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.runs.predictions import read_predictions
from cctkit.training.run import resume_run
from tests.conftest import write_images
from tests.training.test_copies import Notes, train

CLASSES = {"ant": 30, "bee": 20, "fly": 13}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of plants: CLASS/plantN/NUMBER.png, where a plant may be in several classes, and some images are copies."""
    root = tmp_path_factory.mktemp("plants")
    generator = np.random.default_rng(0)
    write_images(root, CLASSES, size=(8, 8))
    for name in CLASSES:
        for path in sorted((root / name).glob("*.png")):
            folder = root / name / f"plant{generator.integers(9)}"
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
    first = sorted((root / "ant").rglob("*.png"))
    for i in (0, 7, 14):  # copies join the groups that they are in
        target = sorted((root / "ant").iterdir())[i % 4]
        shutil.copy(first[i], target / f"copy{i}.png")
    return root


def plant_of(path: str) -> str:
    return path.split("/")[1]


def load(folder: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), **config))


def parts_of_plants(dataset: Dataset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, split in dataset.splits.items():
        for path in split.ids():
            found.setdefault(plant_of(path), set()).add(name)
    return found


def check_one_split(dataset: Dataset) -> None:
    assert all(len(parts) == 1 for parts in parts_of_plants(dataset).values())
    digests = [set(split.pixel_digests().tolist()) for split in dataset.splits.values()]  # type: ignore[union-attr]
    assert sum(map(len, digests)) == len(set.union(*digests))
    for split in dataset.splits.values():  # every class is in every part
        assert set(split.labels.tolist()) == {0, 1, 2}
    assert sum(map(len, dataset.splits.values())) == sum(CLASSES.values()) + 3


@pytest.mark.parametrize("group_by", ["1", r"plant\d+", r"(plant)(\d)"])
def test_a_group_is_in_one_part(plants: Path, group_by: str) -> None:
    check_one_split(load(plants, group_by=group_by, val_fraction=0.25))


def test_without_it_groups_are_parted(plants: Path) -> None:
    assert any(len(parts) > 1 for parts in parts_of_plants(load(plants)).values())


def seeds_hold(plants: Path, seeds: Sequence[int]) -> None:
    drawn = set()
    for seed in seeds:
        dataset = load(plants, group_by="1", val_fraction=0.2, split_seed=seed)
        check_one_split(dataset)
        assert dataset.test is not None
        assert 0.05 < len(dataset.test) / 66 < 0.5  # about a fifth; a plant has about 7 images
        assert load(plants, group_by="1", val_fraction=0.2, split_seed=seed).test.ids() == dataset.test.ids()  # type: ignore[union-attr]
        drawn.add(tuple(dataset.test.ids()))
    assert len(drawn) > 1


def test_a_group_is_in_one_part_under_some_seeds(plants: Path) -> None:
    seeds_hold(plants, range(5))


@pytest.mark.slow
def test_a_group_is_in_one_part_under_every_seed(plants: Path) -> None:
    seeds_hold(plants, range(5, 100))


def test_a_streamed_folder_is_grouped_too(plants: Path) -> None:
    dataset = load(plants, group_by="1", val_fraction=0.2, stream=True)
    assert all(len(parts) == 1 for parts in parts_of_plants(dataset).values())


def keys(ids: list[str], group_by: str) -> list[int]:
    labels = np.zeros(len(ids), dtype=np.int64)
    return group_keys(ids, labels, ("ant",), group_by, "images").tolist()


def test_a_level_counts_folders_inside_of_the_class() -> None:
    ids = ["train/ant/p1/monday/1.png", "train/ant/p1/friday/2.png", "train/ant/p2/monday/3.png", "test/ant/p1/monday/4.png"]
    assert keys(ids, "1") == [0, 0, 1, 0]
    assert keys(ids, "2") == [0, 1, 2, 0]


def test_a_regular_expression_groups_by_its_groups_or_else_by_the_match() -> None:
    ids = ["ant/p1_a.png", "ant/p1_b.png", "ant/p12_a.png"]
    assert keys(ids, r"p\d+") == [0, 0, 1]
    assert keys(ids, r"p\d") == [0, 0, 0]
    assert keys(ids, r"_(a|b)\.") == [0, 1, 0]


@pytest.mark.parametrize(
    ("group_by", "message"),
    [("1", "2 images with no folder at level 1 inside of its class: ant/p1.png"), ("q", "2 images with no match")],
)
def test_an_image_without_a_group_is_an_error(group_by: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        keys(["ant/p1.png", "ant/p2.png"], group_by)


@pytest.mark.parametrize(
    ("group_by", "message"),
    [("0", "level"), ("-2", "level"), ("+1", "level"), ("+-1", "level"), ("1" * 5000, "level"), ("(", "regular expression")],
)
def test_a_wrong_value_is_an_error_before_anything_is_read(group_by: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(group_by=group_by)


def test_it_is_an_error_where_nothing_is_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part, {"ant": 3, "bee": 3}, size=(8, 8))
    with pytest.raises(UserError, match="no effect"):
        load(tmp_path, group_by=r"\d")


def test_check_finds_groups_in_both_of_the_given_splits(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        write_images(tmp_path / part, {"ant": 3, "bee": 3}, size=(8, 8), seed=seed)
    (tmp_path / "test/ant/0.png").rename(tmp_path / "test/ant/7.png")
    config = DataConfig(dataset=str(tmp_path), group_by=r"ant/\d|bee/\d+")
    found = check_dataset(config, progress=lambda *_: None, notify=lambda _: None)
    (finding,) = (each for each in found.findings if each.kind == "groups_across_splits")
    assert ("train/ant/1.png", "test/ant/1.png") in finding.groups
    assert not {"train/ant/0.png", "test/ant/7.png"} & set(finding.paths)
    assert finding.severity == "error"


def test_check_finds_no_group_parted_by_a_split_made_here(plants: Path) -> None:
    config = DataConfig(dataset=str(plants), group_by="1", val_fraction=0.2)
    found = check_dataset(config, progress=lambda *_: None, notify=lambda _: None)
    assert "groups_across_splits" not in {each.kind for each in found.findings}
    assert found.num_images.keys() == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(10))
def test_joined_groups_are_connected_components(seed: int) -> None:
    generator = np.random.default_rng(seed)
    each = [generator.integers(0, 12, 20) for _ in range(2)]
    groups = joined(each)
    reached = np.eye(20, dtype=bool) | (each[0][:, None] == each[0]) | (each[1][:, None] == each[1])
    for _ in range(20):  # transitive closure
        reached = (reached.astype(int) @ reached.astype(int)) > 0
    assert ((groups[:, None] == groups) == reached).all()


@pytest.mark.parametrize("where", ["run", "weights"])
def test_eval_splits_as_the_run_did(plants: Path, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--group-by", "1", "--split-seed", "3", "--epochs", "1", "--batch-size", "8", "--image-size", "8", "--quiet"]
    assert run(["train", str(plants), "--output", str(tmp_path / "run"), *settings, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    source = [str(tmp_path / "run")]
    if where == "weights":
        shutil.copy(tmp_path / "run/weights.safetensors", tmp_path / "alone.safetensors")
        source = [str(tmp_path / "alone.safetensors"), "--dataset", str(plants)]
    assert run(["eval", *source, "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    for key in ("num_images", "top1_percent", "loss"):
        assert again[key] == trained[key]
    assert run(["train", "--resume", str(tmp_path / "run"), "--group-by", "2", "--quiet"]) == 2  # it keeps its settings


def test_a_resumed_run_has_the_same_groups(plants: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(plants, path, epochs=2, stop=True, group_by="1", val_fraction=0.2)
    resume_run(path, {}, reporter=Notes(), stop=StopRequest())
    test = load(plants, group_by="1", val_fraction=0.2, image_size=(8, 8)).test
    assert test is not None
    assert set(read_predictions(path / "predictions.safetensors").ids) == set(test.ids())
    assert json.loads((path / "env.json").read_text())["dataset"]["group_by"] == "1"
