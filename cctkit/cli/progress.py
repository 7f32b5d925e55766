"""How training is shown: a live bar on a terminal, plain lines elsewhere, both on stderr."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

from cctkit.text import terminal_width, wrapped

if TYPE_CHECKING:
    from cctkit.training.job import Progress

_SLOW_RUN_S = 3600
_BAR = 24  # columns of the bar, on a narrow terminal half as many
_NARROW = 100


def duration(seconds: float) -> str:
    """`95` -> 1:35; `4000` -> 1:06:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """One epoch in one line: cross entropy, top-1 of held-out images (of train where there are none), learning rate, speed."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    held_out = [split for split in ("val", "test") if f"{split}_top1_percent" in record]
    for split in ("train", *held_out):
        loss = record[f"{split}_loss"]
        top1 = f" top-1 {record[f'{split}_top1_percent']:.2f}%" if split != "train" or not held_out else ""
        parts.append(f"{split} loss {'nan' if loss is None else f'{loss:.3f}'}{top1}")
    parts.append(f"lr {record['lr']:.2e}")
    if "images_per_s" in record:
        parts.append(f"{record['images_per_s']:,.0f} images/s")
    return "  ".join(parts)


def step_text(now: "Progress", left_s: float | None) -> str:
    """Where an epoch is: loss, learning rate, speed, and the time left where it is known."""
    left = "" if left_s is None else f"  {duration(left_s)} left"
    return f"loss {now.loss:.3f}  lr {now.lr:.2e}  {now.images_per_s:,.0f} images/s{left}"


def fitting_parts(count: str, more: str, room: int) -> str:
    """`count` and as many of the parts of `more`, which two blanks part, as have room: the learning rate goes first, then
    the speed, the loss, the time left.
    """
    parts = [part for part in more.split("  ") if part]
    for words in ("lr ", "images/s", "loss ", ""):
        if len("  ".join([count, *parts])) <= room:
            break
        parts = [part for part in parts if words not in part]
    return "  ".join([count, *parts])


class Estimate:
    """The time that is left, from what was done; and one word of advice where a run will take over an hour."""

    def __init__(self) -> None:
        self.advised = False

    def left_s(self, now: "Progress") -> float | None:
        """None where it is not known yet."""
        steps = (now.epochs - now.epoch) * now.steps - now.step
        return None if now.step_s is None else steps * now.step_s

    def advice(self, left_s: float | None) -> str | None:
        """Once at most, by the first estimate."""
        if self.advised or left_s is None:
            return None
        self.advised = True
        if left_s < _SLOW_RUN_S:
            return None
        return (
            f"this run will take about {duration(left_s)}; faster: a smaller --model such as cct_2_3x2, "
            "--recipe fast, or fewer --epochs. It can be stopped with Ctrl-C and resumed."
        )


class _UntilClosed:
    """A text stream that swallows what can no longer be written: training does not end because its terminal was closed.

    The signal that says so may come later, and there is something to save then.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainReporter:
    """A line an epoch, or every 30 s within a long one; no control characters."""

    log_every_s = 30.0

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self.stream = quiet, _UntilClosed(stream or sys.stderr)
        self.estimate = Estimate()
        self.doing, self.told_s = "", 0.0

    def notice(self, text: str) -> None:
        self.stream.write((wrapped(text, terminal_width(), further="  ") if self.stream.isatty() else text) + "\n")
        self.stream.flush()

    def progress(self, now: "Progress") -> None:
        left = self.estimate.left_s(now)
        if (advice := self.estimate.advice(left)) and not self.quiet:
            self.notice(advice)
        if now.step < now.steps and not self.quiet:
            self.notice(f"epoch {now.epoch + 1}/{now.epochs}  step {now.step}/{now.steps}  {step_text(now, left)}")

    def evaluating(self, split: str, done: int, total: int) -> None:
        pass

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        if not self.quiet:
            self.notice(epoch_line(record, epochs))

    def data(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.doing:
            self.doing, self.told_s = what, now
        elif now - self.told_s >= self.log_every_s and not self.quiet:
            self.told_s = now
            self.notice(f"{what}: {done:,} of {total:,}")

    def close(self) -> None:
        pass


class LiveReporter:
    """A live bar with epoch, loss, learning rate, images a second and the time left; each epoch leaves its line above."""

    log_every_s = 0.5

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.estimate = Estimate()
        stream = cast(TextIO, _UntilClosed(sys.stderr))
        self.console = Console(file=stream, markup=False, highlight=False, emoji=False)
        self.bar_width = _BAR if self.console.width >= _NARROW else _BAR // 2
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self.bar_width),
            TextColumn("{task.fields[more]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task("starting", total=None, more="")

    def notice(self, text: str) -> None:
        self.console.print(wrapped(text, self.console.width, further="  "), soft_wrap=True)

    def _show(self, description: str, done: int, total: int, more: str = "") -> None:
        room = self.console.width - len(description) - self.bar_width - 2
        shown = fitting_parts(f"{done:,}/{total:,}", more, room)
        self.bar.update(self.task, description=description, completed=done, total=total, more=shown)

    def progress(self, now: "Progress") -> None:
        left = self.estimate.left_s(now)
        if advice := self.estimate.advice(left):
            self.notice(advice)
        self._show(f"epoch {now.epoch + 1}/{now.epochs}", now.step, now.steps, step_text(now, left))

    def evaluating(self, split: str, done: int, total: int) -> None:
        self._show(f"evaluating on {split}", done, total)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.notice(epoch_line(record, epochs))

    def data(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total)

    def close(self) -> None:
        self.bar.stop()
