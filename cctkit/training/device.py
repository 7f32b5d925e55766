"""The device policy: where and in which number format a model computes, and which attention. Nothing else asks the hardware.

On a CPU the choice is measured, once for a machine, torch version and number of threads: CPU flags do not tell. Of two
CPUs with avx512_bf16, one multiplies bf16 at twice float32's speed, the other at half.
"""

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cctkit.data.dataset import cache_folder
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from cctkit.models.attention import PATHS, Attention
from cctkit.models.attention import Path as AttentionPath
from cctkit.models.build import set_path
from cctkit.models.dropout import skip_dropped
from cctkit.rundir import write_atomic
from cctkit.text import safe_text

Precision = Literal["float32", "bf16", "fp16"]
_HELD_SHARE = 1 / 4  # of free memory, for the images: weights, activations and the optimizer need the rest
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePolicy:
    """How a run computes. Written into the run; a resumed run keeps its precision and attention."""

    device: str
    precision: Precision
    attention: AttentionPath
    attention_in_evaluation: AttentionPath
    threads: int
    compile: bool = False

    @property
    def channels_last(self) -> bool:
        return self.device != "mps"

    @property
    def skips_dropped(self) -> bool:
        """Whether drop path leaves dropped samples out: elsewhere the host would wait for the draw, or compile anew."""
        return self.device == "cpu" and not self.compile

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass; the loss is computed outside of it, in float32."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=_DTYPES[self.precision])

    def set_paths(self, model: nn.Module) -> None:
        """Let `model` take the ways of training, where there are several of equal results."""
        set_path(model, self.attention)
        skip_dropped(model, self.skips_dropped)

    def prepare(self, model: nn.Module) -> nn.Module:
        """`model` on the device, in the memory format and with the paths of training."""
        self.set_paths(model)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def hold(self, dataset: Dataset, *, workers: int) -> Dataset:
        """`dataset` with its images on a CUDA device, where they take at most a quarter of its free memory.

        Else as it is: mapped from the disk, or streamed. So too with loader workers, who read on the CPU.
        """
        if self.device != "cuda" or workers > 0:
            return dataset
        free_bytes, _ = torch.cuda.mem_get_info()
        return dataset.on(self.device, most_bytes=free_bytes * _HELD_SHARE)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """The device's default generator, from which training draws its masks there, is as it was afterwards."""
        if self.device == "cpu":  # masks come from a generator of our own
            yield
            return
        device: Any = getattr(torch, self.device)
        before = device.get_rng_state()
        try:
            yield
        finally:
            device.set_rng_state(before)

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module, *, keeps_weights: bool = True) -> Iterator[None]:
        """`model` in evaluation mode, without gradients, and as it was afterwards.

        keeps_weights: False where a forward pass makes tensors that training goes on with, as FSDP2's first one does.
        """
        was_training = model.training
        model.eval()
        set_path(model, self.attention_in_evaluation)
        try:
            with torch.inference_mode() if keeps_weights else torch.no_grad(), self.autocast():
                yield
        finally:
            set_path(model, self.attention)
            model.train(was_training)


def choose_policy(
    *, device: str = "auto", precision: str = "auto", threads: int | None = None, compile: bool = False, dropout: bool = True
) -> DevicePolicy:
    """The policy for these wishes on this machine; sets torch's number of threads, and TF32 on CUDA.

    dropout: whether training drops attention weights, which torch's fused kernel cannot on a CPU.

    Raises: UserError for a device or precision that is not there.
    """
    kind = _device(device)
    if precision not in ("auto", *_DTYPES):
        raise UserError(
            f"unknown precision '{safe_text(precision)}', expected one of: auto, {', '.join(_DTYPES)}", "--precision"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    if kind == "cpu":
        measured = probe()
        attention = measured.attention_with_dropout if dropout else measured.attention
        chosen = measured.precision if precision == "auto" else precision
        in_evaluation = measured.attention
    else:
        attention = in_evaluation = "fused"
        chosen = _accelerator_precision(kind) if precision == "auto" else precision
    if chosen == "fp16" and kind != "cuda":
        raise UserError("fp16 needs a CUDA device", "--precision", "use bf16 or float32")
    policy = DevicePolicy(
        device=kind,
        precision=chosen,  # type: ignore[arg-type]
        attention=attention,
        attention_in_evaluation=in_evaluation,
        threads=torch.get_num_threads(),
        compile=compile,
    )
    apply_policy(policy)
    return policy


def apply_policy(policy: DevicePolicy) -> None:
    """Set what holds for the whole process: torch's number of threads, and TF32 on CUDA.

    Raises: UserError where the device is not there.
    """
    _device(policy.device)
    if policy.threads != torch.get_num_threads():
        torch.set_num_threads(policy.threads)
    if policy.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def take_device(kind: str, local_rank: int, local_size: int) -> None:
    """Take one of this machine's devices for this process, which is one of several on it.

    Raises: UserError where there is none for it.
    """
    if kind == "mps":
        raise UserError("several processes cannot share an mps device", "--device", "--device cpu, or one process")
    if kind != "cuda":
        return
    there = torch.cuda.device_count()
    if there < local_size:
        raise UserError(
            f"{local_size} processes on a machine with {there} CUDA devices", "torchrun", f"--nproc-per-node {there}"
        )
    torch.cuda.set_device(local_rank)


def available_device() -> str:
    """The best device that this machine has."""
    return next(kind for kind, there in _devices().items() if there)


def _devices() -> dict[str, bool]:
    """Whether each kind of device is there, the best first."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}


def _device(wish: str) -> str:
    if wish == "auto":
        return available_device()
    there = _devices()
    if wish not in there:
        raise UserError(f"unknown device '{safe_text(wish)}', expected one of: auto, {', '.join(there)}", "--device")
    if not there[wish]:
        raise UserError(f"device {wish} is not available here", "--device", "use --device auto")
    return wish


def _accelerator_precision(kind: str) -> str:
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a CPU does best: the faster number format, and the faster attention in it with and without dropout."""

    precision: Precision
    attention: AttentionPath
    attention_with_dropout: AttentionPath


def probe() -> Probe:
    """The measurement of this machine, from the user's cache or made now (well under a second)."""
    key = f"{cpu_name()}|{torch.__version__}|{torch.get_num_threads()}|3"
    path = cache_folder() / "probe.json"
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    with contextlib.suppress(KeyError, TypeError):
        return Probe(**known[key])
    measured = measure()
    with contextlib.suppress(UserError, OSError):  # a cache that cannot be written only costs the next start
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**known, key: asdict(measured)}, indent=2, sort_keys=True).encode())
    return measured


def measure() -> Probe:
    """Time the products and the attention of `cct_6_3x1` at a small batch, forward and backward."""
    generator = torch.Generator().manual_seed(0)

    def product(dtype: torch.dtype) -> Callable[[], object]:
        x, weight = torch.randn(4096, 256, dtype=dtype), torch.randn(256, 768, dtype=dtype)
        return lambda: x @ weight

    seconds = {name: _seconds(product(_DTYPES[name])) for name in ("float32", "bf16")}
    precision: Precision = "bf16" if seconds["bf16"] < seconds["float32"] else "float32"

    def attention(path: AttentionPath, p: float) -> Callable[[], object]:
        layer = Attention(embed_dim=256, num_heads=4, attention_dropout=p, dropout=0.0).to(_DTYPES[precision])
        layer.path, layer.attn_drop.generator = path, generator
        x = torch.randn(4, 256, 256, dtype=_DTYPES[precision], requires_grad=True)
        return lambda: layer(x).sum().backward()

    def fastest(p: float) -> AttentionPath:
        return min(PATHS, key=lambda path: _seconds(attention(path, p)))

    return Probe(precision=precision, attention=fastest(0.0), attention_with_dropout=fastest(0.1))


def _seconds(run: Callable[[], object], rounds: int = 5) -> float:
    """The fastest of a few runs, after one to warm up."""
    run()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def cpu_name() -> str:
    """The processor's model name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
