"""The device policy: where and in which number format a model computes, and which attention. Nothing else asks the hardware.

On a CPU the choice is measured: see `probe.py`.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from cctkit.data.splits import Dataset
from cctkit.engine.probe import Probe, known_probe, probe
from cctkit.errors import UserError
from cctkit.models.attention import SEEDED_ATTENTION_IMPLS, AttentionImpl
from cctkit.models.build import set_attention_impl
from cctkit.models.dropout import skip_dropped
from cctkit.text import safe_text

Precision = Literal["float32", "bf16", "fp16"]
_HELD_SHARE = 1 / 4  # of free memory, for the images: weights, activations and the optimizer need the rest
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePolicy:
    """How a run computes. Written into the run; a resumed run keeps its precision and attention."""

    device: str
    precision: Precision
    attention: AttentionImpl
    attention_in_evaluation: AttentionImpl
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
        set_attention_impl(model, self.attention)
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
        set_attention_impl(model, self.attention_in_evaluation)
        try:
            with torch.inference_mode() if keeps_weights else torch.no_grad(), self.autocast():
                yield
        finally:
            set_attention_impl(model, self.attention)
            model.train(was_training)


def choose_policy(
    *, device: str = "auto", precision: str = "auto", threads: int | None = None, compile: bool = False, dropout: bool = True
) -> DevicePolicy:
    """The policy for these wishes on this machine; sets torch's number of threads, and TF32 on CUDA.

    dropout: whether training drops attention weights; on a CPU torch's fused kernel is not chosen then, as its masks do not
    come from the step's seed.

    Raises: UserError for a device or precision that is not there.
    """
    kind = choose_device(device=device, precision=precision)
    if threads is not None:
        torch.set_num_threads(threads)
    measured = probe() if kind == "cpu" else None
    policy = _policy(kind, measured, precision=precision, dropout=dropout, compile=compile)
    apply_policy(policy)
    return policy


def assumed_policy(*, dropout: bool) -> tuple[DevicePolicy, str | None]:
    """The policy of training on this machine, without measuring or setting anything; and what is assumed, where it is.

    dropout: whether training drops attention weights.
    """
    kind = available_device()
    measured, note = known_probe() if kind == "cpu" else None, None
    if kind == "cpu" and measured is None:
        measured = Probe(precision="float32", attention="chunked", attention_with_dropout="chunked")
        note = "float32 and chunked attention are assumed: training measures this CPU first, and it is not measured yet"
    return _policy(kind, measured, precision="auto", dropout=dropout), note


def _policy(kind: str, measured: Probe | None, *, precision: str, dropout: bool, compile: bool = False) -> DevicePolicy:
    """measured: what is known of the CPU, None on another device."""
    if precision == "auto":
        precision = measured.precision if measured else accelerator_precision(kind)
    attention: AttentionImpl = "fused"
    in_evaluation: AttentionImpl = "fused"
    if measured:
        attention = measured.attention_with_dropout if dropout else measured.attention
        in_evaluation = measured.attention
    return DevicePolicy(
        device=kind,
        precision=precision,  # type: ignore[arg-type]
        attention=attention,
        attention_in_evaluation=in_evaluation,
        threads=torch.get_num_threads(),
        compile=compile,
    )


def choose_device(*, device: str = "auto", precision: str = "auto") -> str:
    """The device for these wishes on this machine.

    Raises: UserError for a device or precision that is not there.
    """
    kind = _device(device)
    if precision not in ("auto", *_DTYPES):
        raise UserError(
            f"unknown precision '{safe_text(precision)}', expected one of: auto, {', '.join(_DTYPES)}", "--precision"
        )
    if precision == "fp16" and kind != "cuda":
        raise UserError("fp16 needs a CUDA device", "--precision", "use bf16 or float32")
    return kind


def seeded(attention: AttentionImpl, *, device: str, dropout: bool) -> AttentionImpl:
    """`attention`, or `chunked` in the place of one whose masks would not come from the step's seed."""
    return attention if device != "cpu" or not dropout or attention in SEEDED_ATTENTION_IMPLS else "chunked"


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


def accelerator_precision(kind: str) -> Precision:
    """The number format of training there; of a CUDA device that is not here, bf16."""
    if kind != "cuda":
        return "float32"
    return "bf16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


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
