"""A weights file evaluated on a folder: on the images that it was trained with, and on others."""

from pathlib import Path

import pytest

from cctkit.catalog.models import named_config
from cctkit.config import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.errors import UserError
from cctkit.inference import Wish, evaluate_source
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, save_weights
from cctkit.predictions import read_predictions
from cctkit.training.result import dataset_info
from tests.conftest import write_images


def weights_of(data: DataConfig, path: Path) -> Path:
    """A weights file, untrained, as of a run on `data`."""
    dataset = load_dataset(data)
    config = named_config("cct_2_3x2", num_classes=2)
    info = WeightsInfo(
        model=config,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        resize_mode="crop",
        dataset=dataset_info(dataset),
        recipe=None,
        metrics={},
    )
    save_weights(path, tensors=build_model(config, seed=0).state_dict(), info=info)
    return path


def images_of(
    weights: Path, folder: Path, *, split: str | None = None, skip_bad: bool = False, said: list[str] | None = None
) -> set[str]:
    """The ids of the images that an evaluation looks at."""
    predictions = weights.with_name("predictions.safetensors")
    wish = Wish(
        data=DataConfig(dataset=str(folder), skip_bad=skip_bad), split=split, device="cpu", save_predictions=predictions
    )
    evaluate_source(weights, wish, notify=(said if said is not None else []).append, progress=lambda *_: None)
    return set(read_predictions(predictions).ids)


def test_other_images_may_have_validation_images_of_their_own(tmp_path: Path) -> None:
    """Of a model that was trained with --val-fraction, which such a folder excludes."""
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    for seed, side in enumerate(("train", "val", "test")):
        write_images(tmp_path / "b" / side, {"cat": 2, "dog": 2}, seed=1 + seed)
    data = DataConfig(dataset=str(tmp_path / "a"), val_fraction=0.25)
    weights = weights_of(data, tmp_path / "weights.safetensors")
    assert images_of(weights, tmp_path / "b", split="val") == {f"val/{name}/{i}.png" for name in ("cat", "dog") for i in (0, 1)}
    validation = load_dataset(data).val
    assert validation is not None
    assert images_of(weights, tmp_path / "a", split="val") == set(validation.ids())


def test_other_images_without_a_test_part_are_evaluated_all_and_it_is_said(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_images(tmp_path / name, {"cat": 10, "dog": 10}, seed=seed)
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    everything = {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(10)}
    said: list[str] = []
    assert images_of(weights, tmp_path / "b", said=said) == everything
    assert said == ["b has no test part and is not what the model was trained with: all of its images are evaluated"]
    for split in ("test", "train"):
        assert images_of(weights, tmp_path / "b", split=split) < everything


def test_of_its_own_images_a_model_is_evaluated_on_those_that_it_was_not_trained_with(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    data = DataConfig(dataset=str(tmp_path / "a"))
    weights = weights_of(data, tmp_path / "weights.safetensors")
    said: list[str] = []
    test = load_dataset(data).test
    assert test is not None
    assert images_of(weights, tmp_path / "a", said=said) == set(test.ids())
    assert not said
    assert len(images_of(weights, tmp_path / "a", split="all")) == 20


def test_broken_images_can_be_left_out_as_in_training(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    (tmp_path / "a" / "cat" / "broken.png").write_text("no image")
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a"), skip_bad=True), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="--skip-bad"):
        images_of(weights, tmp_path / "a")
    assert len(images_of(weights, tmp_path / "a", skip_bad=True)) == 4


def test_a_folder_of_images_in_the_place_of_a_run_is_named_as_none(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"no run directory.*--dataset FOLDER"):
        evaluate_source(tmp_path / "a", Wish(data=DataConfig()), notify=lambda _: None, progress=lambda *_: None)


def test_of_many_classes_that_differ_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 2, "dog": 2})
    write_images(tmp_path / "b", dict.fromkeys("hgfedcba", 2))
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not in the model: a, b, c, d, e and 3 more; not in the images: cat, dog"):
        images_of(weights, tmp_path / "b")
