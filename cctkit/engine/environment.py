"""What the exactness of a resumed run depends on: versions, processor and device policy; compares two of them."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cctkit
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import launch_of_job
from cctkit.engine.probe import cpu_id, cpu_name
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.runs.runfiles import NUMBER, Shape, read_object

_ARITHMETIC = 2  # 1: head, dropout and drop path in bf16 or fp16 instead of float32, and a constant EMA decay
_PIXELS: Shape = ({"mean": None, "std": None}, {"mean": [NUMBER] * 3, "std": [NUMBER] * 3})
_SHAPE: dict[str, Shape] = {
    "policy": {
        "device": ("cpu", "cuda", "mps"),
        "precision": ("float32", "bf16", "fp16"),
        "attention": tuple(ATTENTION_IMPLS),
        "attention_in_evaluation": tuple(ATTENTION_IMPLS),
        "threads": int,
    },
    "dataset": {"fingerprint": str},
    "init": (None, _PIXELS),
    "torch": str,
    "cpu": str,
    "gpu": (str, None),
}
"""What is read from `env.json`."""


def environment(policy: DevicePolicy, *, world_size: int = 1, sharded: bool = False) -> dict[str, Any]:
    """What the exactness of a resumed run depends on, for `env.json`."""
    return {
        "cctkit": cctkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_id": cpu_id(),
        "gpu": torch.cuda.get_device_name() if policy.device == "cuda" else None,
        "policy": asdict(policy),
        "arithmetic": _ARITHMETIC,
        "ranks": world_size,
        "sharded": sharded,
        "launch": launch_of_job(),
        "command": sys.argv[1:],
    }


def read_environment(path: Path) -> dict[str, Any]:
    """Read a run's `env.json`: its `environment`, data set and initial weights.

    Raises: UserError.
    """
    return read_object(path, _SHAPE)


def differences(
    env: Mapping[str, Any], policy: DevicePolicy, *, world_size: int = 1, sharded: bool = False, ema: bool = False
) -> list[str]:
    """What differs from the machine and the version of cctkit that started the run, one sentence each."""
    now = environment(policy, world_size=world_size)
    pairs = {name: (env[name], now[name]) for name in ("torch", "gpu")}
    exactly = type(env.get("cpu_id")) is str
    pairs["cpu"] = _cpu(env, exactly=exactly), _cpu(now, exactly=exactly)
    pairs |= {name: (env["policy"][name], now["policy"][name]) for name in ("device", "precision", "attention", "threads")}
    pairs["compile"] = env["policy"].get("compile", False), policy.compile
    kept = env.get("ranks")
    pairs["number of processes"] = kept if type(kept) is int else 1, world_size
    pairs["--shard"] = _on(env.get("sharded")), _on(sharded)
    found = [f"{name} is {after}, it was {before}" for name, (before, after) in pairs.items() if before != after]
    if env.get("arithmetic", 1) != _ARITHMETIC:  # changed in a newer version of cctkit
        if policy.precision != "float32":
            found.append(f"the head and the scale of dropout are computed in float32, they were in {policy.precision}")
        if ema:
            found.append("the EMA decay grows with the step, it was constant")
    return found


def _cpu(env: Mapping[str, Any], *, exactly: bool) -> str:
    """The processor; only its name for runs of versions that did not save `cpu_id`."""
    return f"{env['cpu']} ({env['cpu_id']})" if exactly else str(env["cpu"])


def _on(value: object) -> str:
    return "on" if value is True else "off"
