"""The fastest precision and attention on this CPU, measured once per processor, torch version and number of threads.

CPU flags are not enough: of two CPUs with avx512_bf16, one multiplies bf16 at twice the speed of float32, the other at half.
"""

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from cctkit.data.sources.places import cache_folder
from cctkit.errors import UserError
from cctkit.files import read_limited, write_atomic
from cctkit.models.attention import ATTENTION_IMPLS, SEEDED_ATTENTION_IMPLS, Attention, AttentionImpl
from cctkit.runs.runfiles import Shape, fault

_VERSION = 4  # increase it if the measurement or the decision changes
_MARGIN = 1.1
_DTYPES: dict[Literal["float32", "bf16"], torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
# Names in /proc/cpuinfo on x86 and on Arm.
_IDENTITY = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision")
_FLAGS = ("flags", "Features")
_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The fastest precision on a CPU, and the fastest attention in it with and without dropout."""

    precision: Literal["float32", "bf16"]
    attention: AttentionImpl
    attention_with_dropout: Literal["plain", "chunked"]  # one of SEEDED_ATTENTION_IMPLS


_SHAPE: dict[str, Shape] = {
    "precision": tuple(_DTYPES),
    "attention": tuple(ATTENTION_IMPLS),
    "attention_with_dropout": tuple(SEEDED_ATTENTION_IMPLS),
}


def probe() -> Probe:
    """The measurement of this machine, from the user's cache or made now, which takes well under a second."""
    measured = known_probe()
    if measured is not None:
        return measured
    measured, path = measure(), _path()
    with contextlib.suppress(UserError, OSError):  # without a writable cache the next start measures again
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = {**_entries(), probe_key(): asdict(measured)}
        write_atomic(path, json.dumps(entries, indent=2, sort_keys=True).encode())
    return measured


def known_probe() -> Probe | None:
    """The measurement of this machine in the user's cache; None if there is none."""
    entry: Any = _entries().get(probe_key())
    return None if fault(entry, _SHAPE) else Probe(**{name: entry[name] for name in _SHAPE})


def _path() -> Path:
    return cache_folder() / "probe.json"


def _entries() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return dict(json.loads(read_limited(_path())))
    return {}


def probe_key() -> str:
    """The key of a measurement: processor, torch version and number of threads."""
    return f"{cpu_name()}|{cpu_id()}|{torch.__version__}|{torch.get_num_threads()}|{_VERSION}"


def measure() -> Probe:
    """Time the matrix products and the attention of `cct_6_3x1` on a small batch, forward and backward.

    Leaves torch's default generator and the caller's gradient mode unchanged.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        precision = faster({name: _seconds(_product(dtype)) for name, dtype in _DTYPES.items()}, usual="float32")
        dtype = _DTYPES[precision]
        return Probe(
            precision=precision,
            attention=faster({path: _seconds(_attention(path, 0.0, dtype)) for path in ATTENTION_IMPLS}, usual="chunked"),
            attention_with_dropout=faster(
                {path: _seconds(_attention(path, 0.1, dtype)) for path in SEEDED_ATTENTION_IMPLS}, usual="chunked"
            ),
        )


def faster(seconds: Mapping[_Choice, float], *, usual: _Choice) -> _Choice:
    """The fastest choice if it beats the usual one by at least 10%, else the usual one, so that noise does not decide."""
    best = min(seconds, key=lambda choice: seconds[choice])
    return best if seconds[usual] >= _MARGIN * seconds[best] else usual


def _product(dtype: torch.dtype) -> Callable[[], object]:
    x, weight = torch.randn(4096, 256, dtype=dtype), torch.randn(256, 768, dtype=dtype)
    return lambda: x @ weight


def _attention(path: AttentionImpl, p: float, dtype: torch.dtype) -> Callable[[], object]:
    layer = Attention(embed_dim=256, num_heads=4, attention_dropout=p, dropout=0.0).to(dtype)
    layer.attention_impl, layer.attn_drop.generator = path, torch.Generator().manual_seed(0)
    x = torch.randn(4, 256, 256, dtype=dtype, requires_grad=True)
    return lambda: layer(x).sum().backward()


def _seconds(run: Callable[[], object], rounds: int = 5) -> float:
    """The time of the fastest of `rounds` runs, after a warm-up run."""
    run()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def cpu_name() -> str:
    """The name of the processor, which different processors can share."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_id() -> str:
    """The exact kind of processor, and the instruction set that torch uses on it.

    With `/proc/cpuinfo`: vendor, family, model, stepping and a digest of the flags, as in "AuthenticAMD 25 17 1 5d41402abc4b,
    AVX512".
    """
    info = _cpuinfo()
    identity = [info[name] for name in _IDENTITY if name in info]
    flags = next((info[name] for name in _FLAGS if name in info), None)
    if flags is not None:
        identity.append(hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12])
    if not identity:
        identity = [platform.system(), platform.machine(), platform.processor()]
    return f"{' '.join(filter(None, identity))}, {torch.backends.cpu.get_cpu_capability()}"


def _cpuinfo() -> dict[str, str]:
    """The entry of the first processor in `/proc/cpuinfo`; empty if there is no such file."""
    try:
        with _CPUINFO.open(encoding="utf-8", errors="replace") as lines:  # read only the first of up to hundreds of entries
            pairs = [line.partition(":") for line in takewhile(str.strip, lines)]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in pairs}


_CPUINFO = Path("/proc/cpuinfo")
