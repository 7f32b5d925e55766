"""What is interrupted: a command for each thing that a run can do, on images made here, tiny."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import write_images
from tests.probes import write_probe
from tests.processes import Forked
from tests.robustness.child import Spec
from tests.robustness.outcome import file_outcome, run_outcome, seeds_outcome, tree
from tests.training.jobs import ForkedJob

TINY = ["--model", "cct_2_3x2", "--image-size", "8", "--batch-size", "8", "--threads", "1", "--recipe", "report"]
TINY += ["--optimizer", "adamw", "--warmup-epochs", "1", "--quiet", "--embed-dim", "16"]
"""36 images are 5 steps an epoch, of which the last has 4."""
STATEFUL = ["--ema", "0.9", "--mixup", "0.5", "--accumulate", "2", "--dropout", "0.1", "--drop-path", "0.3"]
STATEFUL += ["--val-fraction", "0.1"]
_SCALE = ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
OFTEN = {"cctkit.training.loop:_CHECKPOINT_EVERY_S": 0.0, "cctkit.data.packed.journal:_COMMIT_EVERY_S": 0.0}
"""A checkpoint after every step, and a commit of the journal after every chunk, in place of minutes and seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A command whose interruption must change nothing.

    words: its arguments, but for the images and the output; of a command on a finished run all, with the names of `Place.here`.
    probe: the number format and the attention that are forced.
    ranks: processes; 1 for a process without torchrun's variables.
    kind: train, seeds, pack, export, or command: any on a finished run.
    settings, draws, broken: see `Spec`.
    """

    words: tuple[str, ...] = ()
    probe: str = "float32,chunked"
    ranks: int = 1
    kind: str = "train"
    settings: dict[str, Any] = field(default_factory=lambda: dict(OFTEN))
    draws: bool = False
    broken: str = ""


def _train(*words: str, probe: str = "float32,chunked", ranks: int = 1, epochs: int = 2, kind: str = "train") -> Work:
    return Work(words=("--epochs", str(epochs), *words), probe=probe, ranks=ranks, kind=kind)


WORKS: dict[str, Work] = {
    **{
        f"{attention}, {precision}": _train(
            *STATEFUL, "--attention-dropout", "0" if attention == "fused" else "0.1", probe=f"{precision},{attention}"
        )
        for attention in ("plain", "fused", "chunked")
        for precision in ("float32", "bf16")
    },
    "EMA": _train("--ema", "0.95"),
    "mixup and cutmix": _train("--mixup", "0.8", "--cutmix", "1"),
    "accumulation": _train("--accumulate", "4"),
    "class weights": _train("--class-weights", "1"),
    "balanced sampling": _train("--balanced-sampling", "0.5", "--val-fraction", "0.2", "--choose-by", "balanced"),
    "early stopping": _train("--early-stopping", "1", "--val-fraction", "0.2", "--lr", "1e-6", epochs=5),
    "Muon": _train("--optimizer", "muon", "--dropout", "0.1"),
    "--stream": _train("--stream", *STATEFUL),
    "0 workers": _train("--workers", "0", *STATEFUL),
    "2 workers": _train("--workers", "2", *STATEFUL),
    "--stream, 2 workers": _train("--stream", "--workers", "2"),
    "2 ranks": _train(*STATEFUL, ranks=2),
    "2 ranks, --shard": _train("--shard", *STATEFUL, ranks=2),
    "--seeds 2": _train("--seeds", "2", kind="seeds", epochs=1),
    "plotting": Work(words=("--epochs", "1"), draws=True),
    "packing": Work(kind="pack"),
    "exporting": Work(kind="export"),
}


def _command(*words: str) -> Work:
    return Work(words=words, kind="command")


ON_A_RUN: dict[str, Work] = {
    "evaluating": _command("eval", "RUN", "--quiet"),
    "evaluating a file": _command(
        *("eval", "RUN/weights.safetensors", "--dataset", "IMAGES", "--save-predictions", "OUT.safetensors", "--quiet")
    ),
    "tables of classes": _command("eval", "RUN", "--csv", "OUT.csv", "--quiet"),
    "curves": _command("curves", "RUN", "--output", "OUT.svg"),
    "the schedule": _command("plot-lr", "--epochs", "4", "--output", "OUT.svg"),
    "comparing": _command("compare", "--plot", "OUT.svg"),
    "the confusion matrix": _command("eval", "RUN", "--confusion", "OUT.svg", "--quiet"),
    "predicting": _command("predict", "IMAGES/test", "--model", "RUN", "--csv", "OUT.csv", "--quiet"),
    "heat maps": _command("predict", "IMAGES/test", "--model", "RUN", "--heatmap", "OUT", "--quiet"),
    "a model card": _command("card", "RUN", "-o", "OUT"),
    "importing": _command(
        "import", "FOREIGN.pth", "--model", "cct_2_3x2", "--classes", "CLASSES", *_SCALE, "-o", "OUT.safetensors"
    ),
    "inspecting": _command("inspect", "RUN", "--output", "OUT.html", "--mistakes", "4", "--threads", "1", "--quiet"),
}
"""Commands that write one thing each: a file, a folder, the predictions of the run, or a page and its pictures."""


def write_foreign(folder: Path) -> None:
    """Weights of another program, and the names of their classes."""
    import torch

    from cctkit import create_model

    torch.save(create_model("cct_2_3x2", num_classes=2).state_dict(), folder / "foreign.pth")
    (folder / "classes.txt").write_text("a\nb\n")


class Place:
    """Where a work is done: its images, its cache, and an output for each trial."""

    def __init__(self, folder: Path, work: Work) -> None:
        self.folder, self.work = folder, work
        self.images, self.cache = folder / "images", folder / "cache"
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {"train": (24, 36), "test": (4, 6)}
        for role, (first, second) in numbers.items():
            write_images(self.images / role, {"a": first, "b": second - first if role == "train" else 2}, size=(8, 8))
        if work.kind == "pack":  # of several chunks
            write_images(self.images / "train", {"a": 300}, size=(8, 8), seed=1)
        self.cache.mkdir()
        write_probe(self.cache, work.probe)
        self.unbroken = folder / "unbroken"
        if work.kind in ("export", "command"):
            train = Place(folder / "trained", _train(epochs=1))
            self._finish(train.start("run"))
            self.trained = train.folder / "run"
        if "FOREIGN.pth" in work.words:
            write_foreign(folder)

    def prepare(self, output: str) -> None:
        """Make what a command on a finished run needs before it begins: a copy of the run that is its own."""
        if self.work.kind == "command" and not (self.folder / output).exists():
            shutil.copytree(self.trained, self.folder / output / "run")

    def here(self, output: str) -> dict[str, str]:
        """What the names in the words of a command stand for."""
        path = self.folder / output
        made = {"FOREIGN": self.folder / "foreign", "CLASSES": self.folder / "classes.txt", "IMAGES": self.images}
        return {name: str(each) for name, each in {**made, "RUN": path / "run", "OUT": path / "put"}.items()}

    def command(self, output: str) -> list[str]:
        """The command that begins the work."""
        path = str(self.folder / output)
        if self.work.kind == "command":
            here = self.here(output)
            return [re.sub("|".join(here), lambda name: here[name[0]], word) for word in self.work.words]
        if self.work.kind == "pack":
            return ["pack", str(self.images), "-o", path + ".safetensors", "--image-size", "8", "--quiet"]
        if self.work.kind == "export":
            return ["export", "--model", str(self.trained), "-o", path + ".onnx", "--threads", "1", "--quiet"]
        return ["train", "--dataset", str(self.images), *TINY, *self.work.words, "-o", path]

    def again(self, output: str) -> list[str]:
        """The command that goes on with the work after an interruption."""
        path = self.folder / output
        if self.work.kind == "seeds" and (path / "seeds.json").exists():
            return ["train", "--resume", str(path), "--quiet"]
        if self.work.kind == "train" and (path / "config.json").exists():
            return ["train", "--resume", str(path), "--quiet", *self.ranks_again()]
        if self.work.kind == "command":
            self.clear(output)
        return self.command(output)

    def clear(self, output: str) -> None:
        """Remove what a command on a finished run has put: it would be refused, as it exists."""
        for path in (self.folder / output).glob("put*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def ranks_again(self) -> list[str]:
        """What a resumed run has to be told again."""
        words = self.work.words
        return ["--workers", words[words.index("--workers") + 1]] if "--workers" in words else []

    def is_done(self, output: str) -> bool:
        path = self.folder / output
        if self.work.kind == "command":
            return any(file.is_file() for file in path.glob("put.*"))
        ends = {"train": path / "result.json", "seeds": path / "summary.json"}
        return ends.get(self.work.kind, Path(f"{path}{self.suffix}")).exists()

    @property
    def suffix(self) -> str:
        return {"pack": ".safetensors", "export": ".onnx"}.get(self.work.kind, "")

    def outcome(self, output: str) -> dict[str, Any]:
        path = self.folder / output
        kinds: dict[str, Callable[[Path], dict[str, Any]]] = {"train": run_outcome, "seeds": seeds_outcome, "command": tree}
        found = kinds.get(self.work.kind, file_outcome)
        outcome = found(Path(f"{path}{self.suffix}"))
        return {key.replace(path.name, "OUTPUT"): value for key, value in outcome.items()}

    def start(self, output: str, *, again: bool = False, spec: Spec | None = None) -> "Forked | ForkedJob":
        """Begin the work in `output`, or go on with it."""
        self.prepare(output)
        arguments = self.again(output) if again else self.command(output)
        spec = spec or self.spec()
        place: dict[str, Any] = {"CCTKIT_CACHE": str(self.cache), "NO_COLOR": "1"}
        words = [spec.as_argument(), *arguments]
        if self.work.ranks > 1:
            return ForkedJob(self.work.ranks, *words, module="tests.robustness.child", **place)
        return Forked(*words, module="tests.robustness.child", **place)

    def remove(self, output: str) -> None:
        """Remove what there is of a trial."""
        shutil.rmtree(self.folder / output, ignore_errors=True)
        for file in self.folder.glob(f"{output}*"):
            file.unlink()

    def spec(self, **named: Any) -> Spec:
        return Spec(root=str(self.folder), settings=self.work.settings, draws=self.work.draws, broken=self.work.broken, **named)

    @staticmethod
    def _finish(process: "Forked | ForkedJob") -> None:
        _, errors = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(errors)

    def finish(self, output: str, *, again: bool = False, spec: Spec | None = None) -> None:
        """Do the work to its end. Raises: RuntimeError with what stands on stderr."""
        self._finish(self.start(output, again=again, spec=spec))
