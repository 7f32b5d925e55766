"""Training and evaluation from Python."""

from pathlib import Path
from typing import Any

from cctkit.config.fields import checked
from cctkit.config.settings import DataConfig
from cctkit.engine.distributed import connected
from cctkit.engine.signals import StopRequest
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.runs.paths import is_seeds
from cctkit.training.reporter import Reporter, SilentReporter
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from cctkit.training.seeds import resume_seeds, start_seeds


def fit(
    *,
    output: str | Path | None = None,
    recipe: str | None = None,
    time: str | None = None,
    seeds: int | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a model; return the contents of `result.json`, with `seeds` those of `summary.json`.

    `fit(model="cct_2_3x2", dataset="folder/of/images", epochs=10, output="runs/mine")`

    Under torchrun all processes train together; if one of them fails, the others raise ElsewhereError.

    output: run directory; None: `runs/DATASET-MODEL-TIME`.
    recipe: None: the default one for the data set and device.
    time: how long it may take, such as "30m" or "1h30m", in place of `epochs`.
    seeds: train this many runs, which differ only in the seed, from `seed` on; `output` gets a directory for each.
    reporter: gets what happens while training; None: nothing is shown.
    settings: named as the flags of `cctkit train`.

    Raises: UserError and its subclasses.
    """
    with connected() as context:
        with context.sync_errors():
            request = Request(flags=settings, file_values={}, recipe=recipe, output=Path(output) if output else None, time=time)
            checked("seeds", seeds, int | None, {"bounds": {"at least": 1}})
        own = reporter if reporter is not None and context.is_rank0 else SilentReporter()
        if seeds is not None:
            return start_seeds(request, seeds, reporter=own, stop=StopRequest(), context=context)[1]
        return start_run(request, reporter=own, stop=StopRequest(), context=context)[1]


def resume(run: str | Path, *, reporter: Reporter | None = None, **settings: Any) -> dict[str, Any]:
    """Go on with a run that was interrupted, or with several seeds; return what `fit` returns.

    It ends with the same bits as a run that nothing has interrupted. A finished run is evaluated again.

    run: its directory.
    reporter: as for `fit`; it is told of the epochs so far.
    settings: of those of the run, these may change: workers, test_every_epoch, track, device, threads, compile, shard.

    Raises: UserError and its subclasses; also if other settings are changed, or the images are not the same.
    """
    path = Path(run)
    with connected() as context:
        own = reporter if reporter is not None and context.is_rank0 else SilentReporter()
        again = resume_seeds if is_seeds(path) else resume_run
        return again(path, settings, reporter=own, stop=StopRequest(), context=context)[1]


def evaluate(
    source: str | Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    device: str = "auto",
    include_seen: bool = False,
    min_confidence: float | None = None,
) -> dict[str, Any]:
    """Evaluate a run directory, a weights file or an ONNX file; return what `cctkit eval --json` prints.

    dataset: None: the data set of the run.
    split: test, val, train or all; None: test, or all images of another folder without a test part.
    include_seen: on another data set, keep the images that the run was trained on.
    min_confidence: also report coverage and accuracy of the images whose class has at least this probability.

    Raises: UserError.
    """
    config = EvalConfig(
        data=DataConfig(dataset=dataset),
        split=split,
        device=device,
        include_seen=include_seen,
        min_confidence=min_confidence,
    )
    return evaluate_source(Path(source), config, notify=lambda _: None, progress=lambda *_: None)
