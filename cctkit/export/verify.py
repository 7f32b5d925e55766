"""Compares an exported model, run in onnxruntime, with torch in float32 on every image of a split."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cctkit.config.settings import DataConfig
from cctkit.data.splits import Dataset, Split
from cctkit.engine.device import DevicePolicy
from cctkit.errors import UserError
from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.evaluate import Evaluation, evaluate_split
from cctkit.evaluation.images import class_order, default_split, load_images, split_named
from cctkit.evaluation.load import LoadedModel, preprocess_of
from cctkit.evaluation.trained import TrainedSource
from cctkit.models.onnx_file import OnnxModel
from cctkit.text import counted, safe_text

MARGIN = 1e-3
"""A decision may differ where torch's two highest logits are closer than this: rounding alone can change it."""
_FEW = 3  # the batch of another size on which the exported model is run too
_PROBABILITY_DIFFERENCE = 1e-5

Progress = Callable[[str, int, int], None]
Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the comparison found.

    max_difference: the greatest difference of a logit.
    decisions_changed: images of another class, though torch's two highest logits differ by more than `margin`.
    close_decisions_changed: images of another class whose two highest logits are within `margin`.
    top1_percent, top1_interval_percent: of the exported model; torch_top1_percent: of torch in float32.
    """

    dataset: str
    fingerprint: str
    split: str
    num_images: int
    margin: float
    max_difference: float
    decisions_changed: int
    close_decisions_changed: int
    top1_percent: float
    top1_interval_percent: tuple[float, float]
    torch_top1_percent: float

    def as_json(self) -> dict[str, Any]:
        """For the metadata of the file."""
        return {"verified": True, **asdict(self), "top1_interval_percent": list(self.top1_interval_percent)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedImages:
    """The images to compare on. labels: int64 (n,), in the model's order of the classes."""

    dataset: Dataset
    split: Split
    name: str
    labels: np.ndarray[Any, np.dtype[np.int64]]


def find_images(
    loaded: LoadedModel, asked: DataConfig, found: TrainedSource, *, notify: Notify, progress: Progress
) -> ComparedImages:
    """The test images of the run, or those in `asked`.

    Raises: UserError if there are none.
    """
    info = loaded.info
    dataset = load_images(info, asked, found.data, notify=notify, progress=progress)
    name = default_split(dataset, info, notify)
    split = split_named(dataset, name)
    order = class_order(dataset, info.class_names, asked.dataset)
    return ComparedImages(dataset=dataset, split=split, name=name, labels=order[split.labels])


def verify(
    loaded: LoadedModel, exported: OnnxModel, images: ComparedImages, *, policy: DevicePolicy, progress: Progress
) -> tuple[Verification, Evaluation, Evaluation]:
    """Compare `exported` with the torch model; also returns the evaluation of each, torch's first.

    Raises: UserError if a decision changes that rounding cannot explain.
    """
    dataset, split = images.dataset, images.split

    def evaluated(model: torch.nn.Module, where: str, *, in_model: bool) -> Evaluation:
        return evaluate_split(
            model,
            split,
            preprocess=preprocess_of(loaded.info, in_model=in_model),
            policy=policy,
            labels=images.labels,
            on_batch=lambda done, total: progress(f"{images.name} images in {where}", done, total),
            workers=dataset.workers(None),
        )

    reference = evaluated(policy.prepare(loaded.model), "torch", in_model=False)
    found = evaluated(exported, "onnxruntime", in_model=True)
    few = np.arange(min(_FEW, len(split)))
    raw = preprocess_of(loaded.info, in_model=True).to_input(split.take(few), channels_last=False)
    few_logits, few_probabilities = exported.outputs(raw)
    logits = torch.cat([found.logits, few_logits])
    expected = torch.cat([reference.logits, reference.logits[: len(few)]])
    max_difference, changed, close = compare(expected, logits)
    difference = (few_probabilities - probabilities(few_logits, loaded.info.temperature)).abs().max()
    if changed or not difference <= _PROBABILITY_DIFFERENCE:
        raise UserError(
            f"the exported model is not the same: onnxruntime and torch differ in the class of {counted(changed, 'image')} of "
            f"{len(split):,}, by up to {max_difference:.3g} in a logit, and by up to {difference:.3g} in a probability; "
            "no file was written",
            safe_text(loaded.info.model.name),
            "another version of the exporter: pip install -U onnx onnxscript onnxruntime",
        )
    verification = Verification(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        split=images.name,
        num_images=len(split),
        margin=MARGIN,
        max_difference=max_difference,
        decisions_changed=changed,
        close_decisions_changed=close,
        top1_percent=found.metrics.top1_percent,
        top1_interval_percent=found.metrics.top1_interval_percent,
        torch_top1_percent=reference.metrics.top1_percent,
    )
    return verification, reference, found


def compare(reference: Tensor, found: Tensor) -> tuple[float, int, int]:
    """The greatest difference of two arrays of logits (n, K), and the number of changed decisions: beyond and within MARGIN.

    A row that is not finite in one of them counts as a decision that changed beyond the margin.
    """
    finite = reference.isfinite().all(dim=1) & found.isfinite().all(dim=1)  # (n,)
    a, b = reference[finite].double(), found[finite].double()
    if len(a) == 0:
        return float("inf"), len(reference), 0
    differs = a.argmax(dim=1) != b.argmax(dim=1)
    best, second = a.topk(2, dim=1).values.unbind(dim=1) if a.shape[1] > 1 else (a[:, 0], a[:, 0])
    is_clear = best - second > MARGIN
    changed = int((differs & is_clear).sum()) + int((~finite).sum())
    return float((a - b).abs().max()), changed, int((differs & ~is_clear).sum())
