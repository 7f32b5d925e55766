"""SIGKILL at random moments, however a run computes: what is resumed ends as if nothing had happened, bit for bit."""

import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks.jobs import until
from tests.cli.test_train import STATEFUL, TINY, sha256, untimed
from tests.probes import write_probe
from tests.processes import Forked, forked

KILLS = int(os.environ.get("CCTKIT_KILLS", "9"))  # of each way of computing
TRAIN = [word for word in TINY if word not in {"--precision", "float32"}]
WAYS = list(itertools.product(("float32", "bf16"), ("plain", "fused", "chunked"), (0, 2)))
FEW = [pytest.param("bf16", "chunked", 2, 2, id="bf16-chunked-2")]
MANY = [pytest.param(*way, KILLS, id=f"{KILLS}-{'-'.join(map(str, way))}", marks=pytest.mark.slow) for way in WAYS]


@pytest.mark.parametrize(("precision", "attention", "workers", "kills"), [*FEW, *MANY])
def test_kills_at_random_moments_change_no_bit(
    precision: str, attention: str, workers: int, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the EMA, Muon's momentum or the memory format of AdamW's moments is left out of what is restored."""
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path / "cache", f"{precision},{attention}")))
    dropout = "0" if attention == "fused" else "0.1"  # with it the fused kernel is not taken on a CPU
    train = ["train", *TRAIN, *STATEFUL, "--attention-dropout", dropout]
    unbroken = tmp_path / "unbroken"
    forked(*train, "-o", unbroken, check=True)
    policy = json.loads((unbroken / "env.json").read_text())["policy"]
    assert (policy["precision"], policy["attention"]) == (precision, attention)
    seconds = sum(line["train_seconds"] for line in map(json.loads, (unbroken / "metrics.jsonl").read_text().splitlines()))
    generator, done = random.Random(f"{precision} {attention} {workers}"), 0
    for number in itertools.count():
        run = tmp_path / f"run {number}"
        arguments: list[str | Path] = [*train, "-o", run]
        while not (run / "result.json").exists():
            process = Forked(*arguments, "--workers", str(workers))
            if done < kills:
                until(lambda process=process: process.errors() or process.returncode is not None)  # training is about to begin
                time.sleep(generator.uniform(0, 1.2 * seconds))
                process.kill()
            _, errors = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors
            done += process.returncode != 0
            if (run / "config.json").exists():
                arguments = ["train", "--resume", run]
        forked("train", "--resume", run, check=True)  # a kill may have come between the result and the end
        assert sha256(run / "weights.safetensors") == sha256(unbroken / "weights.safetensors")
        assert untimed(run / "metrics.jsonl") == untimed(unbroken / "metrics.jsonl")
        if done >= kills:
            break
