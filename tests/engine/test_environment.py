"""The environment of a run: written, read again, compared, and refused where it is not one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cctkit.engine.device import DevicePolicy
from cctkit.engine.environment import differences, environment, read_environment
from cctkit.errors import UserError
from tests.mutants import MANY, mutated_json, refused_or_read

POLICY = DevicePolicy(device="cpu", precision="float32", attention="plain", attention_in_evaluation="fused", threads=2)
PIXELS = {"source": "a file", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 1]}


def written(**changes: Any) -> dict[str, Any]:
    return environment(POLICY) | {"dataset": {"fingerprint": "sha256:0"}, "init": PIXELS} | changes


def test_it_comes_back_and_does_not_differ_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    path.write_text(json.dumps(written()))
    assert differences(read_environment(path), POLICY) == []
    path.write_text(json.dumps(written(cpu="another")))
    assert len(differences(read_environment(path), POLICY)) == 1


def test_processors_of_one_name_differ_where_the_run_says_which_it_was() -> None:
    before = written(cpu="AMD EPYC", cpu_id="AuthenticAMD 25 1 1 0, AVX2")
    now = environment(POLICY)
    assert differences(before, POLICY) == [
        f"cpu is {now['cpu']} ({now['cpu_id']}), it was AMD EPYC (AuthenticAMD 25 1 1 0, AVX2)"
    ]
    assert len(differences(written(cpu_id="another"), POLICY)) == 1


@pytest.mark.parametrize("older", [{}, {"cpu_id": None}, {"cpu_id": 3}])
def test_of_an_older_run_the_name_is_all_that_is_known_of_its_processor(older: dict[str, Any], tmp_path: Path) -> None:
    env = {name: value for name, value in written().items() if name != "cpu_id"} | older
    (tmp_path / "env.json").write_text(json.dumps(env))
    assert differences(read_environment(tmp_path / "env.json"), POLICY) == []


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("ema", [False, True])
def test_an_older_run_says_what_is_computed_otherwise_since(precision: str, ema: bool) -> None:
    policy = dataclasses.replace(POLICY, precision=precision)  # type: ignore[arg-type]
    env = environment(policy)
    assert differences(env, policy, ema=ema) == []
    del env["arithmetic"]
    said = [
        *(["the head and the scale of dropout are computed in float32, they were in bf16"] if precision == "bf16" else []),
        *(["the EMA decay grows with the step, it was constant"] if ema else []),
    ]
    assert differences(env, policy, ema=ema) == said


def test_a_model_that_is_compiled_now_and_was_not_differs(tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    path.write_text(json.dumps(written()))
    compiled = dataclasses.replace(POLICY, compile=True)
    assert differences(read_environment(path), compiled) == ["compile is True, it was False"]


def test_another_number_of_processes_and_weights_shared_out_are_differences() -> None:
    assert differences(environment(POLICY, world_size=2, sharded=True), POLICY, world_size=2, sharded=True) == []
    before_sharding = {name: value for name, value in environment(POLICY, world_size=2).items() if name != "sharded"}
    assert differences(before_sharding, POLICY, world_size=2) == []
    assert differences(before_sharding, POLICY, world_size=3, sharded=True) == [
        "number of processes is 3, it was 2",
        "--shard is on, it was off",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"policy": None},
        {"policy": {"device": "cpu"}},
        {"policy": {**written()["policy"], "attention": "slow"}},
        {"policy": {**written()["policy"], "device": ["cpu"]}},
        {"dataset": {}},
        {"init": {}},
        {"init": {"mean": [0.5, 0.5], "std": [1, 1]}},
        {"init": {"mean": None, "std": [1, 1, 1]}},
        {"torch": 2},
    ],
)
def test_one_that_lacks_what_is_read_of_it_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "env.json"
    path.write_text(json.dumps(written(**change)))
    with pytest.raises(UserError, match=r"env\.json is malformed"):
        read_environment(path)


@given(data=st.data())
@MANY
def test_mutants_are_refused_or_compared(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    path.write_bytes(data.draw(mutated_json(written())))
    refused_or_read(lambda: differences(read_environment(path), POLICY))
