"""Several ranks over gloo: they compute what one does, agree on how to end, and leave one run that goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.jobs import finish, launch, lines, sha256
from cctkit.cli.app import run
from tests.processes import PATIENCE_S
from tests.training.jobs import ForkedJob

# Without dropout, whose masks differ between ranks.
TRAIN = ["train", "--model", "cct_2_3x2", "--dataset", "digits", "--image-size", "8", "--batch-size", "126"]
TRAIN += ["--precision", "float32", "--attention-dropout", "0", "--drop-path", "0", "--ema", "0.9", "--mixup", "0.5"]
TRAIN += ["--epochs", "4", "--threads", "1", "--optimizer", "adamw"]  # of 12 steps


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_every_image_of_every_batch_is_what_it_is_with_one_rank(found: Any, ranks: str) -> None:
    together: dict[str, str] = {}
    for each in found[ranks]:
        assert not together.keys() & each["float32"]["seen"].keys()
        together |= each["float32"]["seen"]
    assert together == found["1"][0]["float32"]["seen"]
    assert len(together) == 10 // 3 * 27 + 13


@pytest.mark.parametrize("ranks", ["2", "3"])
@pytest.mark.parametrize(("name", "tolerance"), [("float64", 1e-9), ("float32", 1e-5), ("tct64", 1e-9)])
def test_the_losses_are_those_of_one_rank(found: Any, ranks: str, name: str, tolerance: float) -> None:
    expected = np.array(found["1"][0][name]["losses"])
    assert np.ptp(expected[:, 0]) > 0.1
    for each in found[ranks]:
        assert np.abs(np.array(each[name]["losses"]) - expected).max() <= tolerance


@pytest.mark.parametrize("ranks", ["2", "3"])
@pytest.mark.parametrize("name", ["balanced", "weighted"])
def test_balanced_sampling_and_class_weights_are_those_of_one_rank(found: Any, ranks: str, name: str) -> None:
    alone = found["1"][0]
    together: dict[str, str] = {}
    for each in found[ranks]:
        np.testing.assert_allclose(each[name]["losses"], alone[name]["losses"], rtol=0, atol=1e-10)
        together |= each[name]["seen"]
    assert together == alone[name]["seen"]
    assert (together == alone["float32"]["seen"]) == (name == "weighted")
    assert np.abs(np.array(alone[name]["losses"]) - alone["float32"]["losses"]).max() > 1e-3  # they do something


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_all_ranks_hold_the_same_weights_the_same_each_time(found: Any, ranks: str) -> None:
    for name in ("float64", "float32", "masked"):
        assert len({each[name]["weights"] for each in found[ranks]}) == 1
    assert found[ranks][0]["again"] == found[ranks][0]["float32"]


def test_the_masks_differ_between_ranks_and_those_of_the_first_are_those_of_one(found: Any) -> None:
    seeds = [each["masked"]["seed_of_masks"] for each in found["3"]]
    assert len(set(seeds)) == 3
    assert seeds[0] == found["1"][0]["masked"]["seed_of_masks"]


def test_two_ranks_repeat_to_the_bit_on_every_attention_path_and_in_both_formats(found: Any) -> None:
    first, second = (each["ways"] for each in found["2"])
    assert first == second
    assert len(first) == 6
    assert all(once == again for once, again in first.values())
    assert len({once for once, _ in first.values()}) == 6


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_a_sharded_evaluation_and_its_temperature_are_bit_for_bit_those_of_one_rank(found: Any, ranks: str) -> None:
    assert all(each["logits"] == found["1"][0]["logits"] for each in found[ranks])
    assert 0.01 < float(found["1"][0]["logits"]["1001"].split()[1]) < 100


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_what_one_rank_has_wrong_ends_all_and_one_of_them_tells(found: Any, ranks: str) -> None:
    one, every, first = zip(*(each["agreed"] for each in found[ranks]), strict=True)
    assert [outcome.split()[0] for outcome in one] == ["ElsewhereError", "UserError", "ElsewhereError"][: int(ranks)]
    assert [outcome.split()[0] for outcome in every] == ["DivergedError", "ElsewhereError", "ElsewhereError"][: int(ranks)]
    assert {outcome.split()[1] for outcome in one} == {"2"}
    assert {outcome.split()[1] for outcome in every} == {"3"}
    assert set(first) == {"by rank 0"}


def test_a_checkpoint_that_only_the_first_rank_sees_reaches_all(found: Any) -> None:
    each = [rank for ranks in found.values() for rank in ranks]
    assert len({rank["checkpoint"] for rank in each}) == 1
    assert json.loads(each[0]["checkpoint"])[2] == {"best": {}, "model": {"a": [[0, 1, 2], [3, 4, 5]], "b": 7}}
    assert all(rank["none"] is None for rank in each)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    out, err = finish(ForkedJob(2, *TRAIN, "-o", path))
    assert out.count("weights: ") == 1
    assert [err.count(f"epoch {epoch}/4") for epoch in range(1, 5)] == [1] * 4
    return path


@pytest.mark.slow
def test_a_killed_rank_costs_nothing_with_max_restarts(unbroken: Path, tmp_path: Path) -> None:
    _, err = finish(launch(2, "-m", "tests.training.killed", "training", *TRAIN, "-o", tmp_path / "run", restarts=1))
    assert f"resuming {tmp_path / 'run'}" in err
    assert "Traceback" not in err
    assert sha256(tmp_path / "run" / "weights.safetensors") == sha256(unbroken / "weights.safetensors")
    assert lines(tmp_path / "run") == lines(unbroken)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks whose launcher was told to stop in the midst of it."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    process = launch(2, "-m", "tests.training.killed", "stopping", *TRAIN, "-o", path)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1  # torchrun's own
    assert err.count("stopped and saved; resume with: cctkit train --resume") == 1
    return path


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_of_two_ranks_goes_on_under_one_and_three(ranks: int, unbroken: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    done = len(lines(stopped))
    assert done == 1
    _, err = finish(ForkedJob(ranks, "train", "--resume", tmp_path / "run"))
    assert f"number of processes is {ranks}, it was 2" in err
    after, expected = lines(tmp_path / "run"), lines(unbroken)
    assert after[:done] == expected[:done]
    # Sums in another order: the losses differ by rounding, and by that a few images are taken for another class.
    for name, rtol, atol in (("train_loss", 1e-3, 0), ("test_loss", 1e-3, 0), ("train_top1_percent", 0, 0.5)):
        np.testing.assert_allclose([each[name] for each in after], [each[name] for each in expected], rtol=rtol, atol=atol)


def test_a_fault_is_told_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    job = ForkedJob(2, *TRAIN, "-o", tmp_path / "run", "--batch-size", "3")
    _, err = job.communicate()
    assert [rank.returncode for rank in job.ranks] == [2, 2]
    assert err.count("error: a batch of 3 images is too small for 2 processes, which get pairs of images") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("local_rank", "told"), [("0", True), ("1", False)])
@pytest.mark.parametrize(
    "arguments", [["--epochz", "1"], ["--config", "no-such.toml"], ["--resume", "a", "--output", "b"]], ids=str
)
def test_before_the_ranks_are_connected_the_first_of_a_machine_tells(
    arguments: list[str], local_rank: str, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert run(["train", *arguments]) == 2
    assert bool(capsys.readouterr().err) == told
