"""`--shard`: two ranks that share the weights out compute what each would with all of them, and leave the same files."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.jobs import finish, lines, sha256
from cctkit.catalog.models import named_config
from cctkit.cli.app import run
from cctkit.config.settings import TrainConfig
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import DistContext
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.depth import blocks_of
from cctkit.models.weights import read_weights
from cctkit.training.checkpoint import load_checkpoint
from cctkit.training.prepare import check_ranks
from tests.training.jobs import ForkedJob
from tests.training.test_distributed import TRAIN

# The best of the epochs by validation is among what is shared out, and the average of the weights.
SHARDED = [*TRAIN, "--shard", "--val-fraction", "0.2", "--epochs", "4", "--accumulate", "2"]  # of 10 steps


@pytest.mark.parametrize("ranks", ["2", "3"])
@pytest.mark.parametrize(("prefix", "bits", "tolerance"), [("", "64", 1e-9), ("", "32", 1e-5), ("tct ", "64", 1e-9)])
def test_the_losses_are_those_of_ddp(found: Any, ranks: str, prefix: str, bits: str, tolerance: float) -> None:
    for each in found[ranks]:
        sharded, ddp = each[f"{prefix}sharded{bits}"], each[f"{prefix}ddp{bits}"]
        assert np.ptp(np.array(ddp["losses"])[:, 0]) > 0.1
        assert np.abs(np.array(sharded["losses"]) - np.array(ddp["losses"])).max() <= tolerance
        assert sharded["seen"] == ddp["seen"]


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_the_average_of_the_weights_is_that_of_ddp_too(found: Any, ranks: str) -> None:
    for each in found[ranks]:
        np.testing.assert_allclose(each["sharded64"]["norms"], each["ddp64"]["norms"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_the_same_ranks_compute_the_same_bits_each_time(found: Any, ranks: str) -> None:
    assert len({each["sharded32"]["weights"] for each in found[ranks]}) == 1
    assert all(each["sharded32"] == each["sharded32 again"] for each in found[ranks])


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_each_rank_holds_its_share_of_weights_average_and_moments(found: Any, ranks: str) -> None:
    held, all_of_it = [each["sharded64"]["held"] for each in found[ranks]], found[ranks][0]["ddp64"]["held"]
    assert max(held) < 1.03 * all_of_it / int(ranks)
    assert sum(held) >= all_of_it


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_an_evaluation_is_bit_for_bit_that_of_one_rank_even_where_some_have_no_batch(found: Any, ranks: str) -> None:
    for each in found[ranks]:
        assert len(each["sharded logits"]) == 4
        assert each["sharded logits"].items() <= found["1"][0]["logits"].items()


@pytest.mark.parametrize(("of", "ranks"), [("2", "2"), ("2", "3"), ("3", "3")])
def test_a_checkpoint_goes_on_under_any_number_of_ranks_and_without_sharding(found: Any, of: str, ranks: str) -> None:
    saved = {each["sharded32"]["state"] for each in found[of]}
    assert len(saved) == 1
    assert {digest for each in found[ranks] for digest in each["resumed"][of]} == saved


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "run"
    _, err = finish(ForkedJob(2, *SHARDED, "-o", path))
    assert "cpu float32, 2 processes, sharded" in err
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed between the shards of its third checkpoint."""
    path = tmp_path_factory.mktemp("killed") / "run"
    job = ForkedJob(2, "saving", *SHARDED, "-o", path, module="tests.training.killed")
    job.communicate()
    assert [rank.returncode for rank in job.ranks] == [-signal.SIGKILL] * 2
    return path


def test_the_weights_are_one_file_of_which_eval_tells_the_same(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = read_weights(unbroken / "weights.safetensors")
    expected = build_model(named_config("cct_2_3x2", num_classes=10, image_size=8)).state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: each.shape for name, each in expected.items()}
    assert run(["eval", str(unbroken), "--json"]) == 0
    shown, result = json.loads(capsys.readouterr().out), json.loads((unbroken / "result.json").read_text())
    assert {key: shown[key] for key in ("top1_percent", "loss", "ece")} == {
        key: result[key] for key in ("top1_percent", "loss", "ece")
    }
    assert result["params"] == shown["params"]


def test_a_kill_between_two_shards_leaves_the_checkpoint_before(killed: Path) -> None:
    (unfinished,) = (killed / "checkpoints").glob(".tmp-*")
    assert {"model-0-of-2.safetensors", "progress-0-of-2.safetensors", "optimizer-1-of-2.safetensors"} <= {
        path.name for path in unfinished.iterdir()
    }
    checkpoint = load_checkpoint(killed / "checkpoints", warn=pytest.fail)
    assert checkpoint is not None
    assert checkpoint.step == 10


def test_a_killed_job_resumes_to_the_same_weights(unbroken: Path, killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    _, err = finish(ForkedJob(2, "train", "--resume", tmp_path / "run"))
    assert "bit-equal" not in err
    assert sha256(tmp_path / "run" / "weights.safetensors") == sha256(unbroken / "weights.safetensors")
    assert lines(tmp_path / "run") == lines(unbroken)
    assert not list((tmp_path / "run" / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
def test_it_goes_on_in_one_process(unbroken: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(killed, tmp_path / "run")
    assert run(["train", "--resume", str(tmp_path / "run")]) == 0
    err = capsys.readouterr().err
    assert "number of processes is 1, it was 2" in err
    assert "--shard is off, it was on" in err
    after, expected = lines(tmp_path / "run"), lines(unbroken)
    assert after[0] == expected[0]
    for name in ("train_loss", "val_loss", "test_loss"):
        np.testing.assert_allclose([each[name] for each in after], [each[name] for each in expected], rtol=1e-3)


@pytest.mark.parametrize("name", ["cct_2_3x2", "cvt_6_4", "vit_lite_6_4", "tct_3_2", "vit_s_16"])
def test_the_blocks_are_found_in_every_family(name: str) -> None:
    config = named_config(name, num_classes=10, image_size=32)
    with torch.device("meta"):
        blocks = blocks_of(build_model(config))
    assert len(blocks) == config.num_layers
    assert len({type(block) for block in blocks}) == 1


def test_a_scale_of_fp16_that_each_would_find_alone_is_refused() -> None:
    policy = DevicePolicy(device="cuda", precision="fp16", attention="fused", attention_in_evaluation="fused", threads=1)
    with pytest.raises(UserError, match="fp16 is not supported with --shard"):
        check_ranks(TrainConfig(shard=True), policy, DistContext(world_size=2))
    check_ranks(TrainConfig(shard=True), policy, DistContext(world_size=1))
    check_ranks(TrainConfig(), policy, DistContext(world_size=2))
