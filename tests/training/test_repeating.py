"""A run repeats to the bit and goes on exactly, on every attention path and in both number formats: what was measured of
the CPU is forced, so that nothing depends on this machine's.
"""

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.jobs import lines, sha256
from cctkit.api import SilentReporter, fit
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.training import loop
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images
from tests.probes import write_probe

SETTINGS: dict[str, Any] = {
    "model": "cct_2_3x2", "image_size": 8, "batch_size": 8, "epochs": 2, "optimizer": "adamw",
    "dropout": 0.1, "drop_path": 0.3, "mixup": 0.5, "ema": 0.9, "val_fraction": 0.1, "accumulate": 2,
}  # fmt: skip
FEW = {"plain-float32", "fused-bf16", "chunked-bf16"}
EVERY = [pytest.param(impl, each, {}, id=f"{impl}-{each}") for impl in ATTENTION_IMPLS for each in ("float32", "bf16")]
EVERY += [
    pytest.param("chunked", "float32", {"balanced_sampling": 1.0, "choose_by": "balanced"}, id="balanced sampling"),
    pytest.param("chunked", "float32", {"class_weights": 1.0, "choose_by": "loss"}, id="class weights"),
]


class Killed(BaseException):
    """The end of a process, as far as files can tell."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """43 images to train with, which are six batches of eight."""
    folder = tmp_path_factory.mktemp("images")
    for role, number in (("train", 24), ("test", 4)):
        write_images(folder / role, {"a": number * 3 // 2, "b": number // 2}, size=(8, 8))
    SETTINGS["dataset"] = str(folder)
    yield
    del SETTINGS["dataset"]


def settings_of(path: str) -> dict[str, Any]:
    """With dropout of the attention weights, except where the forced path cannot be taken with it."""
    return {**SETTINGS, "attention_dropout": 0.0 if path == "fused" else 0.1}


def policy_in(run: Path) -> Mapping[str, Any]:
    return json.loads((run / "env.json").read_text())["policy"]  # type: ignore[no-any-return]


def resume(path: Path, stop: StopRequest, told: list[str] | None = None) -> None:
    reporter = SilentReporter()
    reporter.notice = (told if told is not None else []).append  # type: ignore[method-assign]
    resume_run(path, {}, reporter=reporter, stop=stop)


@pytest.mark.parametrize(
    ("path", "precision", "more"),
    [each if each.id in FEW else pytest.param(*each.values, id=each.id, marks=pytest.mark.slow) for each in EVERY],
)
def test_a_run_that_is_stopped_and_killed_in_the_midst_of_its_epochs_ends_as_an_unbroken_one(
    path: str, precision: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where the masks of attention come from torch's own generator, which is drawn from between the starts."""
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, f"{precision},{path}")))
    unbroken, run, settings = tmp_path / "unbroken", tmp_path / "run", settings_of(path) | more
    fit(output=unbroken, recipe="report", **settings)
    assert (policy_in(unbroken)["attention"], policy_in(unbroken)["precision"]) == (path, precision)

    stop, real, calls = StopRequest(), loop.train_step, [0]

    def step(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            stop.signal_number = signal.SIGTERM
        if calls[0] == 9:
            raise Killed
        torch.rand(1)  # what else draws from torch's own generator changes nothing
        real(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(StoppedError):
        start_run(
            Request(flags=settings, file_values={}, recipe="report", output=run),
            reporter=SilentReporter(), stop=stop,
        )  # fmt: skip
    with pytest.raises(Killed):
        resume(run, StopRequest())
    resume(run, StopRequest())
    assert calls[0] == 3 + 6 + 6  # of 2 x 6 steps: 3 until the stop, 5 more until the kill, the 6 of the second epoch
    assert sha256(run / "weights.safetensors") == sha256(unbroken / "weights.safetensors")
    assert lines(run) == lines(unbroken)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_where_torchs_kernel_is_the_fastest_dropout_still_repeats(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, f"{precision},fused")))
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        fit(output=tmp_path / name, recipe="report", **{**SETTINGS, "attention_dropout": 0.5, "epochs": 1})
    assert sha256(tmp_path / "one" / "weights.safetensors") == sha256(tmp_path / "two" / "weights.safetensors")
    assert (policy_in(tmp_path / "one")["attention"], policy_in(tmp_path / "one")["attention_in_evaluation"]) == (
        "chunked",
        "fused",
    )


def test_a_recipe_by_default_computes_as_the_same_one_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits' recipe drops no attention weights, so that torch's kernel may be taken; the settings' default does."""
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, "float32,fused")))
    settings = {"model": "cct_2_3x2", "dataset": "digits", "image_size": 8, "batch_size": 512, "epochs": 1, "threads": 1}
    fit(output=tmp_path / "by default", **settings)
    fit(output=tmp_path / "by name", recipe="demo", **settings)
    policies = [policy_in(tmp_path / name) for name in ("by default", "by name")]
    assert policies[0] == policies[1]
    assert policies[0]["attention"] == "fused"
    weights = [sha256(tmp_path / name / "weights.safetensors") for name in ("by default", "by name")]
    assert weights[0] == weights[1]


def test_an_older_run_whose_masks_no_step_repeats_goes_on_with_those_of_the_seed_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, "float32,plain")))
    run, settings = tmp_path / "run", {**SETTINGS, "attention_dropout": 0.1}
    fit(output=run, recipe="report", **settings)
    env = json.loads((run / "env.json").read_text())
    env["policy"] |= {"attention": "fused", "attention_in_evaluation": "fused"}
    (run / "env.json").write_text(json.dumps(env))
    seen: list[Any] = []
    real = loop.fit

    def noted(job: Any, **options: Any) -> Any:
        seen.append((job.policy.attention, job.policy.attention_in_evaluation))
        return real(job, **options)

    monkeypatch.setattr("cctkit.training.run.fit", noted)
    told: list[str] = []
    resume(run, StopRequest(), told)
    assert seen == [("chunked", "fused")]
    assert told[0] == "attention is chunked, it was fused: the result will not be bit-identical to that of an uninterrupted run"
