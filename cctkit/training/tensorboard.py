"""`--track tensorboard`: what a run reports, as event files that TensorBoard shows."""

import io
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, text

from cctkit.files import full_disk_named, write_atomic
from cctkit.runs.paths import RunPaths
from cctkit.text import json_text, safe_text
from cctkit.training.reporter import Reporter, StartedRun

_OF_SPLIT = re.compile(r"^(train|val|test)_(loss|loss_smoothed|\w+_percent)$")
_HEADLINE = {"result/top1_percent": 0}


class TensorBoardReporter(Reporter):
    """Writes the event files of a run to `RUN/tensorboard`: one per start or resume, in the order of their names.

    What a call writes is on disk when it returns. (torch's `SummaryWriter` writes in a thread, which prints a traceback if the
    disk is full.)

    Raises: DiskError if the disk is full.
    """

    _run: StartedRun
    _file: Path
    _epoch: int

    def started(self, run: StartedRun) -> None:
        """Write the settings, and the records that are not there yet.

        What is there from the last record on is replaced, since a kill may have cut it off.
        """
        folder = RunPaths(run.path).tensorboard
        with full_disk_named(folder):
            folder.mkdir(exist_ok=True)
        earlier = len(list(folder.glob("events.out.tfevents.*")))
        self._run, self._epoch = run, len(run.records)
        self._file = folder / f"events.out.tfevents.{earlier:06}"
        events = [Event(file_version="brain.Event:2")]
        if earlier:
            events.append(Event(session_log=SessionLog(status=SessionLog.START), step=self._epoch))
        if not earlier or not run.records:
            events += [Event(summary=summary) for summary in _settings(run)]
        events += map(_epoch_event, run.records[-1:] if earlier else run.records)
        write_atomic(self._file, _in_records(events))

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:  # noqa: ARG002
        self._epoch = record["epoch"]
        self._append([_epoch_event(record)])

    def finished(self, result: Mapping[str, Any]) -> None:
        """The figures of the result, and the pictures in the run directory."""
        figures = {f"result/{key}": value for key, value in result.items() if isinstance(value, float)}
        pictures = map(_picture, sorted(self._run.path.glob("*.png")))
        self._append(
            Event(summary=summary, step=self._epoch)
            for summary in (_scalars(figures), *pictures, hparams({}, _HEADLINE)[2])  # type: ignore[no-untyped-call]
        )

    def _append(self, events: Iterable[Event]) -> None:
        with full_disk_named(self._file), open(self._file, "ab") as file:
            file.write(_in_records(events))
            file.flush()
            os.fsync(file.fileno())


def _in_records(events: Iterable[Event]) -> bytes:
    """Events of now, in the format of an event file."""
    data = io.BytesIO()
    for event in events:
        event.wall_time = time.time()
        RecordWriter(data).write(event.SerializeToString())
    return data.getvalue()


def _settings(run: StartedRun) -> list[Summary]:
    """The settings for TensorBoard's pages of text and of hyperparameters."""
    values = {"recipe": run.recipe, **run.settings}
    lines = json_text(values, indent=2, ascii_only=True).splitlines()  # in Markdown indented lines are code
    shown = {
        key: value if isinstance(value, (int, float)) else safe_text(value)
        for key, value in values.items()
        if value is not None
    }
    experiment, session, _ = hparams(shown, _HEADLINE)  # type: ignore[no-untyped-call]
    code = text("settings", "\n".join(f"    {line}" for line in lines))  # type: ignore[no-untyped-call]
    return [code, experiment, session]


def _epoch_event(record: Mapping[str, Any]) -> Event:
    """The figures of an epoch: `val_loss` as `loss/val`, so that the splits share a plot's row."""
    figures = {_OF_SPLIT.sub(r"\2/\1", key): value for key, value in record.items() if key not in ("epoch", "step")}
    return Event(summary=_scalars(figures), step=record["epoch"])


def _scalars(figures: Mapping[str, float | None]) -> Summary:
    known = {tag: value for tag, value in figures.items() if value is not None}
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])


def _picture(path: Path) -> Summary:
    data = path.read_bytes()
    width, height = Image.open(io.BytesIO(data)).size
    image = Summary.Image(encoded_image_string=data, width=width, height=height, colorspace=4)
    return Summary(value=[Summary.Value(tag=path.stem, image=image)])
