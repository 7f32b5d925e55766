"""The same run with several seeds, one after the other, as one job that can be resumed: `--seeds`."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cctkit.config.settings import check_settings
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.signals import StopRequest
from cctkit.errors import InUseError, StoppedError
from cctkit.runs.paths import RunPaths, SeedPaths, default_name
from cctkit.runs.rundir import RunDir
from cctkit.runs.runfiles import read_config, read_settings
from cctkit.runs.seeds import read_seeds, summarize_seeds
from cctkit.text import safe_text
from cctkit.training.job import Session
from cctkit.training.reporter import Reporter
from cctkit.training.request import Request
from cctkit.training.run import claim, resume_run, start_run
from cctkit.training.stored import changed_settings


def start_seeds(
    request: Request, number: int, *, reporter: Reporter, stop: StopRequest, context: DistContext = ALONE
) -> tuple[Path, dict[str, Any]]:
    """Train as requested with `number` seeds from the requested one on; return the directory and its summary.

    Raises: as `start_run`. If the first run fails before its first step, no files are left.
    """
    session = Session(reporter=reporter, stop=stop, context=context)
    first = request.early.seed
    output = request.output
    with context.sync_errors():
        check_settings({"seed": first + number - 1})
    if context.restarts and output and context.run_on_rank0(SeedPaths(output).seeds.is_file):
        return resume_seeds(output, {}, reporter=reporter, stop=stop, context=context)
    asked = {
        "flags": check_settings(request.flags),
        "file_values": check_settings(request.file_values),
        "file_name": request.file_name,
        "recipe": request.recipe,
        "time": request.time,
    }
    with contextlib.ExitStack() as undo:
        held = claim(lambda: RunDir.create(output) if output else _by_default_name(request), context, undo)
        paths = SeedPaths(held.path)
        seeds = tuple(range(first, first + number))
        with context.sync_errors():
            if context.is_rank0:
                held.write_json(paths.seeds, {"schema_version": 1, "seeds": seeds, "request": asked})
        job = _Seeds(paths=paths, seeds=seeds, session=session, request=request, flags={})
        try:
            job.train(first)
        except BaseException:
            if RunPaths(paths.run(first)).config.is_file():  # training has begun
                undo.pop_all()
                held.close()
            raise
        undo.pop_all()
    with held:
        return held.path, job.train_all(held)


def resume_seeds(
    path: Path, flags: Mapping[str, Any], *, reporter: Reporter, stop: StopRequest, context: DistContext = ALONE
) -> tuple[Path, dict[str, Any]]:
    """Resume the run that was stopped, and train those that were not begun. Finished ones are not repeated.

    flags: settings that a resumed run may change.

    Raises: as `resume_run`.
    """
    session = Session(reporter=reporter, stop=stop, context=context)
    with context.sync_errors():
        held = RunDir.open_seeds(path) if context.is_rank0 else RunDir.of_another(path)
    with held:
        seeds, asked = context.run_on_rank0(lambda: read_seeds(path))
        with context.sync_errors():
            request = Request(**asked)
            if context.is_rank0:
                first = RunPaths(SeedPaths(path).run(seeds[0])).config
                changed_settings(read_settings(first)[0] if first.is_file() else request.early, flags, path)
        job = _Seeds(paths=SeedPaths(path), seeds=seeds, session=session, request=request, flags=flags)
        return path, job.train_all(held)


def _by_default_name(request: Request) -> RunDir:
    """Create a directory with the default name, or the next one if another process takes that first."""
    while True:
        with contextlib.suppress(InUseError):
            return RunDir.create(default_name("seeds", request.early.model.model, datetime.now()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeds:
    """The runs of a directory of seeds.

    request: of the first run; the others have its settings as they were written.
    flags: settings that a resumed run may change.
    """

    paths: SeedPaths
    seeds: tuple[int, ...]
    session: Session
    request: Request
    flags: Mapping[str, Any]

    def train_all(self, held: RunDir) -> dict[str, Any]:
        """Train what is not finished, and write the summary."""
        for seed in self.seeds:
            self.train(seed)

        def write() -> dict[str, Any]:
            summary = summarize_seeds(held.path)
            held.write_json(self.paths.summary, summary)
            return summary

        return self.session.context.run_on_rank0(write)

    def train(self, seed: int) -> None:
        """Train the run of one seed: nothing if it is finished, the rest if it is begun."""
        context, run = self.session.context, RunPaths(self.paths.run(seed))
        is_finished, is_begun = context.run_on_rank0(lambda: (run.result.is_file(), run.config.is_file()))
        if is_finished:
            return
        self.session.reporter.notice(f"seed {seed}: run {self.seeds.index(seed) + 1} of {len(self.seeds)}")
        named: dict[str, Any] = {"reporter": self.session.reporter, "stop": self.session.stop, "context": context}
        with self._resumable():
            if is_begun:
                resume_run(run.path, self.flags, **named)
            else:
                start_run(self._request(seed), **named)

    def _request(self, seed: int) -> Request:
        """That of the user for the first seed; for another one the settings that the first run has written."""
        output, first = self.paths.run(seed), self.paths.run(self.seeds[0])
        if seed == self.seeds[0]:
            return replace(self.request, output=output, flags={**self.request.flags, **self.flags, "seed": seed})
        values, recipe = self.session.context.run_on_rank0(lambda: read_config(first, recipe=None))
        return Request(
            flags={**self.flags, "seed": seed},
            file_values=values,
            file_name=str(RunPaths(first).config),
            recipe=recipe,
            output=output,
        )

    @contextlib.contextmanager
    def _resumable(self) -> Iterator[None]:
        """Let a stopped run name the command that resumes all."""
        try:
            yield
        except StoppedError as stop:
            if not RunPaths(self.paths.run(self.seeds[0])).config.is_file():
                raise
            again = f"cctkit train --resume {safe_text(self.paths.path)}"
            raise StoppedError(stop.signal_number, f"stopped and saved; resume with: {again}") from stop
