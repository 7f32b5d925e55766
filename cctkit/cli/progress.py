"""Progress of training on stderr: a live bar on a terminal, otherwise plain lines."""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

from cctkit.cli.tables import print_text
from cctkit.text import wrapped
from cctkit.training.reporter import Progress, Reporter, StartedRun

if TYPE_CHECKING:
    from cctkit.engine.signals import StopRequest

DataProgress = Callable[[str, int, int], None]
_SLOW_RUN_S = 3600
_LEAST_S = 1.0  # of work, before its end is estimated
_BAR = 24  # width of the bar in characters; half of it on a narrow terminal
_NARROW = 100


def duration(seconds: float) -> str:
    """`95` -> 1:35; `4000` -> 1:06:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_line(record: Mapping[str, Any], epochs: int, *, choose_by: str = "top1") -> str:
    """One epoch in one line: cross entropy, top-1 on held-out images (on train if there are none), learning rate, speed.

    choose_by: if it is `balanced`, balanced accuracy is shown too.
    """
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    held_out = [split for split in ("val", "test") if f"{split}_top1_percent" in record]
    for split in ("train", *held_out):
        loss = record[f"{split}_loss"]
        top1 = f" top-1 {record[f'{split}_top1_percent']:.2f}%" if split != "train" or not held_out else ""
        balanced = record.get(f"{split}_balanced_accuracy_percent") if choose_by == "balanced" else None
        more = "" if balanced is None else f" balanced {balanced:.2f}%"
        parts.append(f"{split} loss {'nan' if loss is None else f'{loss:.3f}'}{top1}{more}")
    parts.append(f"lr {record['lr']:.2e}")
    if "images_per_s" in record:
        parts.append(f"{record['images_per_s']:,.0f} images/s")
    return "  ".join(parts)


def step_text(now: Progress, left_s: float | None) -> str:
    """Loss, learning rate, speed, and the time left if it is known."""
    left = "" if left_s is None else f"  {duration(left_s)} left"
    return f"loss {now.loss:.3f}  lr {now.lr:.2e}  {now.images_per_s:,.0f} images/s{left}"


def fitting_parts(count: str, more: str, room: int) -> str:
    """`count` and the parts of `more`, separated by two spaces, that fit into `room` characters.

    The learning rate is left out first, then the speed, the loss, the time left.
    """
    parts = [part for part in more.split("  ") if part]
    for words in ("lr ", "images/s", "loss ", ""):
        if len("  ".join([count, *parts])) <= room:
            break
        parts = [part for part in parts if words not in part]
    return "  ".join([count, *parts])


class _UntilClosed:
    """A text stream that ignores write errors, so that training does not fail when its terminal is closed.

    The hangup signal may arrive later, and the run is saved then.
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


class _Reporter(Reporter):
    """Estimates the time left, and gives advice once if a run will take over an hour."""

    advised = False
    choose_by = "top1"
    doing, started_s, done_before = "", 0.0, 0

    def started(self, run: StartedRun) -> None:
        self.choose_by = run.settings["choose_by"]

    def left_s(self, now: Progress) -> float | None:
        """The time left; None if it is not known yet."""
        if now.step_s is None:
            return None
        left_s = ((now.epochs - now.epoch) * now.steps - now.step) * now.step_s
        if not self.advised and left_s >= _SLOW_RUN_S:
            self.notice(
                f"this run will take about {duration(left_s)}; faster: a smaller --model such as cct_2_3x2, "
                "--recipe fast, or fewer --epochs. It can be stopped with Ctrl-C and resumed."
            )
        self.advised = True
        return left_s

    def work_left_s(self, what: str, done: int, total: int) -> float | None:
        """The time left of work other than training; None if it is not known yet. total: 0 if it is not known."""
        now = time.monotonic()
        if what != self.doing:
            self.doing, self.started_s, self.done_before = what, now, done
        elapsed_s, count = now - self.started_s, done - self.done_before
        return elapsed_s / count * (total - done) if count > 0 and total and elapsed_s >= _LEAST_S else None


class PlainReporter(_Reporter):
    """One line per epoch, and every 30 s within a long one; no control characters."""

    log_every_s = 30.0

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self.stream = quiet, cast(TextIO, _UntilClosed(stream or sys.stderr))
        self.told_s = 0.0

    def notice(self, text: str) -> None:
        print_text(text, stream=self.stream)
        self.stream.flush()

    def progress(self, now: Progress) -> None:
        if self.quiet:
            return
        left_s = self.left_s(now)
        if now.step < now.steps:
            self.notice(f"epoch {now.epoch + 1}/{now.epochs}  step {now.step}/{now.steps}  {step_text(now, left_s)}")

    def evaluating(self, split: str, done: int, total: int) -> None:
        pass

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        if not self.quiet:
            self.notice(epoch_line(record, epochs, choose_by=self.choose_by))

    def data(self, what: str, done: int, total: int) -> None:
        is_new, left_s = what != self.doing, self.work_left_s(what, done, total)
        now = time.monotonic()
        if is_new:
            self.told_s = now
        elif now - self.told_s >= self.log_every_s and not self.quiet:
            self.told_s = now
            left = "" if left_s is None else f", {duration(left_s)} left"
            self.notice(f"{what}: {done:,}{f' of {total:,}' if total else ''}{left}")

    def close(self) -> None:
        pass


class LiveReporter(_Reporter):
    """A live bar with epoch, loss, learning rate, images per second and time left, below one line per finished epoch."""

    log_every_s = 0.5

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

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

    def progress(self, now: Progress) -> None:
        self._show(f"epoch {now.epoch + 1}/{now.epochs}", now.step, now.steps, step_text(now, self.left_s(now)))

    def evaluating(self, split: str, done: int, total: int) -> None:
        self._show(f"evaluating on {split}", done, total)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.notice(epoch_line(record, epochs, choose_by=self.choose_by))

    def data(self, what: str, done: int, total: int) -> None:
        left_s = self.work_left_s(what, done, total)
        self._show(what, done, total, "" if left_s is None else f"{duration(left_s)} left")

    def close(self) -> None:
        self.bar.stop()

    def _show(self, description: str, done: int, total: int, more: str = "") -> None:
        room = self.console.width - len(description) - self.bar_width - 2
        shown = fitting_parts(f"{done:,}/{total:,}" if total else f"{done:,}", more, room)
        self.bar.update(self.task, description=description, completed=done, total=total or None, more=shown)


@contextlib.contextmanager
def reporting(
    stop: "StopRequest", *, quiet: bool, silent: bool = False
) -> "Iterator[tuple[LiveReporter | PlainReporter, DataProgress]]":
    """The reporter for this terminal, and its `data` preceded by a check for a stop request. The reporter is closed at the end.

    silent: print nothing at all, as all processes of a job but the first.
    """
    reporter: LiveReporter | PlainReporter
    if silent:
        reporter = PlainReporter(quiet=True, stream=io.StringIO())
    else:
        reporter = LiveReporter() if sys.stderr.isatty() and not quiet else PlainReporter(quiet=quiet)

    def data_progress(what: str, done: int, total: int) -> None:
        stop.check()
        reporter.data(what, done, total)

    try:
        yield reporter, data_progress
    finally:
        reporter.close()
