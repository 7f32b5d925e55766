"""Training and evaluation from Python: what the commands do, without a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cctkit.config.settings import DataConfig
from cctkit.engine.distributed import connected
from cctkit.engine.signals import StopRequest
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.training.job import Progress
from cctkit.training.request import Request
from cctkit.training.run import start_run


class SilentReporter:
    """Shows nothing."""

    log_every_s = 30.0

    def notice(self, text: str) -> None: ...
    def progress(self, now: Progress) -> None: ...
    def evaluating(self, split: str, done: int, total: int) -> None: ...
    def epoch(self, record: Mapping[str, Any], epochs: int) -> None: ...
    def data(self, what: str, done: int, total: int) -> None: ...


def fit(*, output: str | Path | None = None, recipe: str | None = None, **settings: Any) -> dict[str, Any]:
    """Train with these settings, named as the flags of `cctkit train`; the result, as `result.json` has it.

    `fit(model="cct_2_3x2", dataset="folder/of/images", epochs=10, output="runs/mine")`

    Under torchrun all its processes train together; where one of them fails, the others raise ElsewhereError.

    Raises: UserError and its kinds.
    """
    with connected() as ranks:
        with ranks.sync_errors():
            request = Request(flags=settings, file_values={}, recipe=recipe, output=Path(output) if output else None)
        _, result = start_run(request, reporter=SilentReporter(), stop=StopRequest(), ranks=ranks)
    return result


def evaluate(
    source: str | Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    device: str = "auto",
    include_seen: bool = False,
) -> dict[str, Any]:
    """Evaluate a run directory or a weights file; the result, as `cctkit eval --json` prints it.

    split: test, val, train or all; None: test, all of other images that have no test part. include_seen: do not leave out
    those of another data set on which the run was trained.

    Raises: UserError.
    """
    config = EvalConfig(data=DataConfig(dataset=dataset), split=split, device=device, include_seen=include_seen)
    return evaluate_source(Path(source), config, notify=lambda _: None, progress=lambda *_: None)
