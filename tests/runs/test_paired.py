"""Two runs on the same images: counted image by image, matched by id, refused where the images differ."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.errors import UserError
from cctkit.runs.paired import paired
from cctkit.runs.predictions import Predictions, write_predictions
from tests.conftest import write_images

CLASSES = ("ant", "bee", "cat")


def write(
    path: Path,
    found: list[int],
    labels: list[int],
    *,
    ids: list[str] | None = None,
    split: str = "test",
    classes: tuple[str, ...] = CLASSES,
    fingerprint: str = "sha256:1",
    split_fingerprint: str = "",
) -> Path:
    """Predictions that say class `found[i]` of image i."""
    logits = np.zeros((len(found), len(classes)), dtype=np.float32)
    logits[np.arange(len(found)), found] = 1
    names = ids or [f"{i}.png" for i in range(len(found))]
    predictions = Predictions(
        ids=names,
        labels=np.array(labels, dtype=np.int64),
        logits=logits,
        class_names=classes,
        split=split,
        fingerprint=fingerprint,
        split_fingerprint=split_fingerprint,
    )
    write_predictions(path, predictions)
    return path


LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
A = [0, 1, 2, 0, 1, 2, 1, 0]  # right: the first six
B = [0, 1, 0, 1, 0, 0, 0, 0]  # right: 0, 1 and 6


def test_images_are_counted_by_which_model_is_correct(tmp_path: Path) -> None:
    result = paired(write(tmp_path / "a", A, LABELS), write(tmp_path / "b", B, LABELS))
    assert (result.num_images, result.both, result.only_a, result.only_b, result.neither) == (8, 2, 4, 1, 1)
    assert result.p_value == pytest.approx(2 * (1 + 5) / 2**5)


def test_a_run_directory_stands_for_its_predictions(tmp_path: Path) -> None:
    for name, found in (("a", A), ("b", B)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "predictions.safetensors", found, LABELS)
    assert paired(tmp_path / "a", tmp_path / "b").only_a == 4


def test_predictions_without_a_digest_are_compared_and_named(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", A, LABELS), write(tmp_path / "b", B, LABELS)
    assert paired(first, second).unverified == ()
    with safe_open(second, framework="numpy") as file:
        header = json.loads(file.metadata()["cctkit"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["digest"]
    save_file(tensors, second, {"cctkit": json.dumps(header)})
    assert paired(first, second).unverified == (second,)


def test_images_are_matched_by_id_and_classes_by_name(tmp_path: Path) -> None:
    backwards = [f"{i}.png" for i in reversed(range(8))]
    renamed = tuple(reversed(CLASSES))
    b = write(tmp_path / "b", [2 - i for i in reversed(B)], [2 - i for i in reversed(LABELS)], ids=backwards, classes=renamed)
    assert paired(write(tmp_path / "a", A, LABELS), b).only_a == 4


def test_logits_that_are_not_finite_are_wrong(tmp_path: Path) -> None:
    logits = np.full((2, 3), np.nan, dtype=np.float32)
    labels = np.zeros(2, dtype=np.int64)
    predictions = Predictions(
        ids=["0", "1"], labels=labels, logits=logits, class_names=CLASSES, split="test", fingerprint="sha256:1"
    )
    write_predictions(tmp_path / "a", predictions)
    result = paired(tmp_path / "a", write(tmp_path / "b", [0, 0], [0, 0], ids=["0", "1"]))
    assert (result.only_b, result.both) == (2, 0)


def test_other_images_are_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", A, LABELS)
    for number, changes in enumerate(({"ids": list("abcdefgh")}, {"split": "val"}, {"fingerprint": "sha256:2"})):
        with pytest.raises(UserError, match="different images"):
            paired(a, write(tmp_path / str(number), B, LABELS, **changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="different images"):
        paired(a, write(tmp_path / "fewer", B[:7], LABELS[:7]))


def test_other_training_images_do_not_part_runs_on_the_same_test_images(tmp_path: Path) -> None:
    a = write(tmp_path / "a", A, LABELS, split_fingerprint="sha256:t")
    b = write(tmp_path / "b", B, LABELS, split_fingerprint="sha256:t", fingerprint="sha256:2")
    assert paired(a, b).only_a == 4
    with pytest.raises(UserError, match="different images"):
        paired(a, write(tmp_path / "c", B, LABELS, split_fingerprint="sha256:u"))


def test_files_that_do_not_say_their_images_are_told_apart_by_the_data_set_and_the_way_out_is_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", A, LABELS)
    assert paired(a, write(tmp_path / "b", B, LABELS, split_fingerprint="sha256:t")).only_a == 4
    with pytest.raises(UserError) as caught:
        paired(a, write(tmp_path / "c", B, LABELS, split_fingerprint="sha256:t", fingerprint="sha256:2"))
    assert "cctkit eval RUN --dataset FOLDER --save-predictions FILE" in str(caught.value.remedy)


def test_a_cleaned_training_folder_leaves_the_test_images_what_they_are(tmp_path: Path) -> None:
    for seed, side in enumerate(("train", "test")):
        write_images(tmp_path / side, {"cat": 6, "dog": 6}, seed=seed)
    config = DataConfig(dataset=str(tmp_path))
    for stream in (False, True):
        parts = [load_dataset(replace(config, stream=stream)).test]
        (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "removed.png")
        parts.append(load_dataset(replace(config, stream=stream)).test)
        (tmp_path / "removed.png").rename(tmp_path / "train" / "cat" / "0.png")
        first, second = (part.fingerprint() for part in parts if part is not None)
        assert first == second
    (tmp_path / "test" / "cat" / "0.png").unlink()
    fewer = load_dataset(config).test
    assert fewer is not None
    assert fewer.fingerprint() != first


def test_other_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="different labels"):
        paired(write(tmp_path / "a", A, LABELS), write(tmp_path / "b", B, [1, *LABELS[1:]]))


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [0, 0], [0, 0], ids=["x", "x"])
    with pytest.raises(UserError, match="the same image twice"):
        paired(a, a)


def test_missing_predictions_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        paired(tmp_path, tmp_path)
    assert "cctkit eval" in str(caught.value.remedy)
