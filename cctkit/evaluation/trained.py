"""A trained model as the commands name it: a run, a weights file, or the newest run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cctkit.config.settings import DataConfig
from cctkit.engine.device import DevicePolicy, choose_policy
from cctkit.engine.environment import read_environment
from cctkit.errors import UserError
from cctkit.evaluation.load import is_onnx
from cctkit.runs.paths import DEFAULT_ROOT, HUB_WEIGHTS, RunPaths, check_is_one_run, newest_run, weights_file
from cctkit.runs.runfiles import read_settings
from cctkit.text import safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSource:
    """A weights file, and what its run directory says if it is in one.

    data: the settings of the data set that the run was trained on.
    policy: the device policy that the run was trained with.
    seen: the file with the digests of the training images; it need not exist.
    predictions: where a finished run keeps its predictions.
    """

    weights: Path
    data: DataConfig = field(default_factory=DataConfig)
    policy: Mapping[str, Any] = field(default_factory=dict)
    seen: Path | None = None
    predictions: Path | None = None
    is_finished: bool | None = None

    def choose_policy(self, *, device: str = "auto", precision: str | None = None, threads: int | None = None) -> DevicePolicy:
        """The policy that the run was trained with, so that its figures repeat; without a run, this machine's choice.

        Raises: UserError, as `engine.device.choose_policy`.
        """
        if is_onnx(self.weights):
            return _policy_of_onnx(device, precision, threads)
        policy = choose_policy(device=device, precision=precision or self.policy.get("precision", "auto"), threads=threads)
        if self.policy and policy.device == self.policy["device"]:
            policy = replace(policy, attention_in_evaluation=self.policy["attention_in_evaluation"])
        return policy


def _policy_of_onnx(device: str, precision: str | None, threads: int | None) -> DevicePolicy:
    """onnxruntime computes in float32 on the CPU."""
    for flag, value, known in (("--device", device, ("auto", "cpu")), ("--precision", precision, (None, "auto", "float32"))):
        if value not in known:
            raise UserError("an ONNX file is evaluated in float32 on the CPU", f"{flag} {safe_text(value)}", "leave it out")
    return choose_policy(device="cpu", precision="float32", threads=threads)


def find_trained(source: str | Path | None, *, notify: Callable[[str], None]) -> TrainedSource:
    """The trained model of a run directory, a weights file, a folder of `cctkit card` or a name that comes with cctkit.

    source: None: the newest run in `runs/`, which `notify` names.

    Raises: UserError if there is no run, or a directory is none or has no weights.
    """
    if source is None:
        source = newest_run(DEFAULT_ROOT)
        notify(f"using the newest run, {safe_text(source)}")
    source = Path(source)
    if not source.is_dir() or (source / HUB_WEIGHTS).exists():
        return TrainedSource(weights=weights_file(source))
    check_is_one_run(source)
    run = RunPaths(source)
    if not run.config.is_file():
        raise UserError(
            "not a run directory: config.json is missing",
            safe_text(source),
            "name a run or a weights file here; eval takes a folder of images with --dataset FOLDER",
        )
    return TrainedSource(
        weights=weights_file(source),
        data=read_settings(run.config)[0].data,
        policy=read_environment(run.env)["policy"],
        seen=run.seen,
        predictions=run.predictions,
        is_finished=run.result.is_file(),
    )
