"""`cctkit plot-lr`."""

import csv
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cctkit.cli.options import PicturePath, config_option, flag, option, recipe_option
from cctkit.cli.tables import print_text
from cctkit.config.settings import TrainConfig
from cctkit.errors import UserError
from cctkit.runs.runfiles import read_config
from cctkit.text import counted, safe_text
from cctkit.training.schedule import Schedule, lr_factor, schedule_of, steps_per_epoch

_POINTS = 800  # of a plotted line


@dataclass(frozen=True, slots=True, kw_only=True)
class _PeerSettings:
    """What the schedules of other scripts depend on. They count whole epochs, from 0."""

    lr: float
    min_lr: float
    epochs: int
    warmup_epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _PeerSchedule:
    """Learning rate per epoch of another script, with its source and a remark on what is unexpected in it."""

    source: str
    remark: str
    lr: Callable[[int, _PeerSettings], float]


def _shi(epoch: int, s: _PeerSettings) -> float:
    if epoch < s.warmup_epochs:
        return s.lr / (s.warmup_epochs - epoch)
    return s.lr * 0.5 * (1 + math.cos(math.pi * (epoch - s.warmup_epochs) / (s.epochs - s.warmup_epochs)))


_TIMM_WARMUP_LR = 1e-5


def _timm(epoch: int, s: _PeerSettings) -> float:
    if epoch < s.warmup_epochs:
        return _TIMM_WARMUP_LR + epoch * (s.lr - _TIMM_WARMUP_LR) / s.warmup_epochs
    if epoch >= s.epochs:
        return s.min_lr
    return s.min_lr + 0.5 * (s.lr - s.min_lr) * (1 + math.cos(math.pi * epoch / s.epochs))


_PEER_SCHEDULES: Mapping[str, _PeerSchedule] = MappingProxyType(
    {
        "shi": _PeerSchedule(
            source="SHI-Labs/Compact-Transformers, examples/main.py, adjust_learning_rate",
            remark="its warm-up is lr / (warmup - epoch), which is not linear: half of the increase is in the last epoch",
            lr=_shi,
        ),
        "timm": _PeerSchedule(
            source="huggingface/pytorch-image-models, timm/scheduler/cosine_lr.py, defaults of scheduler_factory.py",
            remark="its cosine starts at epoch 0 and applies from the end of the warm-up, so the base rate is never reached",
            lr=_timm,
        ),
    }
)


def plot_lr(
    epochs: Annotated[int | None, option("epochs")] = None,
    recipe: Annotated[str | None, recipe_option(default="report")] = None,
    config: Annotated[Path | None, config_option()] = None,
    lr: Annotated[float | None, option("lr")] = None,
    warmup_epochs: Annotated[float | None, option("warmup_epochs")] = None,
    warmup_fraction: Annotated[float | None, option("warmup_fraction")] = None,
    min_lr: Annotated[float | None, option("min_lr")] = None,
    batch_size: Annotated[int | None, option("batch_size")] = None,
    num_images: Annotated[int, flag("--num-images", text="training images", default=50_000, at_least=1)] = 50_000,
    compare: Annotated[
        str | None, flag("--compare", text="overlay the schedules of other scripts: shi, timm, or shi,timm")
    ] = None,
    output: PicturePath = None,
    as_json: Annotated[bool, flag("--json", text="print the values per epoch and per step as JSON")] = False,
    as_csv: Annotated[bool, flag("--csv", text="print the values per step as CSV")] = False,
) -> None:
    """Plot the learning rate of a run, computed by the function that training uses."""
    if as_json and as_csv:
        raise UserError("--json and --csv cannot be combined", "command line", "choose one")
    flags = {"epochs": epochs, "lr": lr, "warmup_epochs": warmup_epochs, "warmup_fraction": warmup_fraction}
    flags |= {"min_lr": min_lr, "batch_size": batch_size}
    plan = _plan({key: value for key, value in flags.items() if value is not None}, recipe, config, num_images)
    peers = _peer_rates(compare, plan)
    if output is not None:
        from cctkit.plots import check_picture

        check_picture(output)
    if as_json:
        _print_json(plan, peers)
    elif as_csv:
        _print_csv(plan, peers)
    else:
        _print_plot(plan, peers)
    if output is not None:
        _draw(plan, peers, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A run's learning-rate schedule."""

    recipe: str
    config: TrainConfig
    steps: int  # of an epoch
    schedule: Schedule

    @property
    def peaks(self) -> dict[str, float]:
        """The peak learning rate of AdamW, `lr`, and of Muon if the run uses it, `lr_muon`."""
        muon = {"lr_muon": self.config.muon_lr} if self.config.optimizer == "muon" else {}
        return {"lr": self.config.lr, **muon}

    def lr(self, step: int) -> float:
        return self.config.lr * lr_factor(step, self.schedule)

    @property
    def title(self) -> str:
        length = f"{counted(self.config.epochs, 'epoch')} of {counted(self.steps, 'step')}"
        return f"Learning rate, recipe {self.recipe}: {length}"

    def drawn_steps(self) -> list[int]:
        """Steps to plot: the first, the last, the end of the warm-up, and evenly spaced ones between."""
        last = self.schedule.total_steps - 1
        stride = max(1, last // _POINTS)
        return sorted({*range(0, last, stride), last, min(last, max(0, self.schedule.warmup_steps - 1))})


def _plan(flags: Mapping[str, Any], recipe: str | None, config: Path | None, num_images: int) -> _Plan:
    from cctkit.catalog.recipes import resolve

    file_values, recipe = read_config(config, recipe=recipe)
    recipe = recipe or "report"
    settings = resolve(recipe_name=recipe, file_values=file_values, file_name=safe_text(config or ""), flags=flags).config
    steps = steps_per_epoch(num_images, settings.batch_size)
    return _Plan(recipe=recipe, config=settings, steps=steps, schedule=schedule_of(settings, steps))


def _peer_rates(names: str | None, plan: _Plan) -> dict[str, list[float]]:
    """The learning rates per epoch of other scripts with these settings.

    Raises: UserError if the schedule is unknown.
    """
    if names is None:
        return {}
    config, epochs = plan.config, plan.config.epochs
    decaying = max(1, epochs - round(config.cooldown_epochs))
    warmup = min(round(plan.schedule.warmup_steps / plan.steps), decaying - 1)
    settings = _PeerSettings(lr=config.lr, min_lr=config.min_lr, epochs=decaying, warmup_epochs=warmup)
    rates = {}
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        if name not in _PEER_SCHEDULES:
            raise UserError(f"unknown schedule '{safe_text(name)}'", "--compare", f"compare with: {', '.join(_PEER_SCHEDULES)}")
        rates[name] = [_PEER_SCHEDULES[name].lr(epoch, settings) for epoch in range(epochs)]
    return rates


def _print_json(plan: _Plan, peers: Mapping[str, list[float]]) -> None:
    from cctkit.cli.tables import print_json

    values: dict[str, Any] = {
        "schema_version": 1,
        "recipe": plan.recipe,
        "epochs": list(range(1, plan.config.epochs + 1)),
        "steps_per_epoch": plan.steps,
        "warmup_steps": plan.schedule.warmup_steps,
    }
    factors = [lr_factor(step, plan.schedule) for step in range(plan.schedule.total_steps)]
    for name, peak in plan.peaks.items():
        rates = [peak * factor for factor in factors]
        values |= {name: rates[:: plan.steps], f"{name}_by_step": rates}
    if peers:
        values["compare"] = {name: {"lr": rates} for name, rates in peers.items()}
    print_json(values, indent=None)


def _print_csv(plan: _Plan, peers: Mapping[str, list[float]]) -> None:
    """One line per step; epochs count from 1, steps from 0."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["epoch", "step", *plan.peaks, *(f"lr_{name}" for name in peers)])
    for step in range(plan.schedule.total_steps):
        epoch, factor = step // plan.steps, lr_factor(step, plan.schedule)
        rates = [peak * factor for peak in plan.peaks.values()]
        writer.writerow([epoch + 1, step, *rates, *(peer[epoch] for peer in peers.values())])


def _print_plot(plan: _Plan, peers: Mapping[str, list[float]]) -> None:
    from cctkit.cli.tables import result_console
    from cctkit.cli.terminal import Line, line_plot

    drawn = plan.drawn_steps()
    lines = [Line(name="cctkit", x=[step / plan.steps for step in drawn], y=[plan.lr(step) for step in drawn])]
    for name, rates in peers.items():
        epochs = [epoch + part for epoch in range(len(rates)) for part in (0, 0.999)]
        lines.append(Line(name=name, x=epochs, y=[rate for rate in rates for _ in range(2)]))
    coloured = result_console().color_system is not None
    sys.stdout.write(
        line_plot(lines, title=plan.title, x_label="epoch", colour=coloured, corners=((0, plan.config.epochs), (0,))) + "\n"
    )
    print_text("\n".join(_facts(plan, peers)))


def _facts(plan: _Plan, peers: Mapping[str, list[float]]) -> list[str]:
    """What the plot shows, in numbers."""
    schedule, last = plan.schedule, plan.schedule.total_steps - 1
    peak = max(0, schedule.warmup_steps - 1)
    facts = [
        f"first step {plan.lr(0):.3g}, peak {plan.lr(peak):.3g} at step {peak + 1:,} (epoch {peak // plan.steps + 1}), "
        f"last step {plan.lr(last):.3g}"
    ]
    if "lr_muon" in plan.peaks:
        facts.append(f"this is AdamW's; Muon's has the same shape and a peak of {plan.config.muon_lr:.3g}")
    return facts + [f"{name}: {_PEER_SCHEDULES[name].remark} ({_PEER_SCHEDULES[name].source})" for name in peers]


def _draw(plan: _Plan, peers: Mapping[str, list[float]], path: Path) -> None:
    from cctkit.plots import Curve, draw_schedule

    drawn = plan.drawn_steps()
    curves = {"cctkit": Curve(epochs=[step / plan.steps for step in drawn], lr=[plan.lr(step) for step in drawn])}
    for name, rates in peers.items():
        curves[name] = Curve(epochs=range(len(rates) + 1), lr=[*rates, rates[-1]], stepped=True)
    warmup = plan.schedule.warmup_steps / plan.steps
    draw_schedule(
        curves,
        path,
        title=plan.title,
        marks={"end of the warm-up": warmup} if warmup else None,
        second_axis=("Muon's learning rate", plan.config.muon_lr / plan.config.lr) if "lr_muon" in plan.peaks else None,
    )
    print_text(f"wrote {safe_text(path)}", stream=sys.stderr)
