"""The device policy: device, precision and attention implementation. No other module asks the hardware.

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
_HELD_SHARE = 1 / 4  # of free memory for the images; weights, activations and optimizer state need the rest
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePolicy:
    """How a run computes. Saved in `env.json`; a resumed run keeps its precision and attention implementation."""

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
        """Whether drop path skips dropped samples: elsewhere that would synchronise with the device, or recompile."""
        return self.device == "cpu" and not self.compile

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context of forward passes; the loss is computed outside it, in float32."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=_DTYPES[self.precision])

    def set_impls(self, model: nn.Module) -> None:
        """Select the implementations for training in `model`; results do not depend on them."""
        set_attention_impl(model, self.attention)
        skip_dropped(model, self.skips_dropped)

    def prepare(self, model: nn.Module) -> nn.Module:
        """`model` on the device, in the memory format and with the implementations for training."""
        self.set_impls(model)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def hold(self, dataset: Dataset, *, workers: int) -> Dataset:
        """`dataset` with its images moved to a CUDA device if they take at most a quarter of its free memory.

        Unchanged otherwise, and with loader workers, which read on the CPU.
        """
        if self.device != "cuda" or workers > 0:
            return dataset
        free_bytes, _ = torch.cuda.mem_get_info()
        return dataset.on(self.device, most_bytes=free_bytes * _HELD_SHARE)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Restore the device's default generator afterwards: training draws dropout masks from it."""
        if self.device == "cpu":  # masks come from our own generator
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
        """Put `model` in evaluation mode, without gradients; restore its mode afterwards.

        keeps_weights: False if the forward pass creates tensors that training uses later, as the first one of FSDP2 does.
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
    """Choose the policy on this machine; set torch's number of threads, and TF32 on CUDA.

    threads: None: torch's default.
    dropout: whether training uses attention dropout. On a CPU torch's fused kernel is not chosen then, because its masks do
        not come from the step's seed.

    Raises: UserError if the device or the precision is unknown or not available.
    """
    kind = choose_device(device=device, precision=precision)
    if threads is not None:
        torch.set_num_threads(threads)
    measured = probe() if kind == "cpu" else None
    policy = _policy(kind, measured, precision=precision, dropout=dropout, compile=compile)
    apply_policy(policy)
    return policy


def assumed_policy(*, dropout: bool) -> tuple[DevicePolicy, str | None]:
    """The policy of training on this machine, without measuring or setting anything, and a note on what is assumed.

    dropout: whether training uses attention dropout.
    """
    kind = available_device()
    measured, note = known_probe() if kind == "cpu" else None, None
    if kind == "cpu" and measured is None:
        measured = Probe(precision="float32", attention="chunked", attention_with_dropout="chunked")
        note = "float32 and chunked attention are assumed, since this CPU is not measured yet; training measures it first"
    return _policy(kind, measured, precision="auto", dropout=dropout), note


def _policy(kind: str, measured: Probe | None, *, precision: str, dropout: bool, compile: bool = False) -> DevicePolicy:
    """measured: the measurement of the CPU; None on other devices."""
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
    """Choose the device on this machine.

    Raises: UserError if the device or the precision is unknown or not available.
    """
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = available_device() if device == "auto" else device
    if kind not in is_there:
        raise UserError(f"unknown device '{safe_text(kind)}', expected one of: auto, {', '.join(is_there)}", "--device")
    if not is_there[kind]:
        raise UserError(f"device {kind} is not available here", "--device", "use --device auto")
    if precision not in ("auto", *_DTYPES):
        raise UserError(
            f"unknown precision '{safe_text(precision)}', expected one of: auto, {', '.join(_DTYPES)}", "--precision"
        )
    if precision == "fp16" and kind != "cuda":
        raise UserError("fp16 needs a CUDA device", "--precision", "use bf16 or float32")
    return kind


def seeded(attention: AttentionImpl, *, device: str, dropout: bool) -> AttentionImpl:
    """`attention`, or `chunked` if the dropout masks of `attention` do not come from the step's seed."""
    return attention if device != "cpu" or not dropout or attention in SEEDED_ATTENTION_IMPLS else "chunked"


def apply_policy(policy: DevicePolicy) -> None:
    """Set what holds for the whole process: torch's number of threads, and TF32 on CUDA."""
    if policy.threads != torch.get_num_threads():
        torch.set_num_threads(policy.threads)
    if policy.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def take_device(kind: str, local_rank: int, local_size: int) -> None:
    """Select this process's device, if several processes run on this machine.

    Raises: UserError if there are fewer devices than processes.
    """
    if kind == "mps":
        raise UserError("several processes cannot share an mps device", "--device", "use --device cpu, or one process")
    if kind != "cuda":
        return
    devices = torch.cuda.device_count()
    if devices < local_size:
        raise UserError(
            f"{local_size} processes on a machine with {devices} CUDA devices", "torchrun", f"--nproc-per-node {devices}"
        )
    torch.cuda.set_device(local_rank)


def available_device() -> str:
    """The best device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def accelerator_precision(kind: str) -> Precision:
    """The precision of training on this kind of device; bf16 for CUDA if there is no such device here."""
    if kind != "cuda":
        return "float32"
    return "bf16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
