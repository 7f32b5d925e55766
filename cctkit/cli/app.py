"""The command-line application: its commands, and the only place where errors are printed."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from cctkit import __version__
from cctkit.cli.bench import bench
from cctkit.cli.card import card
from cctkit.cli.check import check
from cctkit.cli.compare import compare
from cctkit.cli.curves import curves
from cctkit.cli.evaluate import evaluate
from cctkit.cli.export import export
from cctkit.cli.help import HelpCommand, HelpGroup
from cctkit.cli.import_weights import import_weights
from cctkit.cli.inspect_run import inspect_run
from cctkit.cli.models import models
from cctkit.cli.options import with_lone_flags
from cctkit.cli.pack import pack
from cctkit.cli.plot_lr import plot_lr
from cctkit.cli.predict import predict
from cctkit.cli.recipes import recipes
from cctkit.cli.summarize import summarize
from cctkit.cli.tables import print_text
from cctkit.cli.train import train
from cctkit.errors import ElsewhereError, ResourceError, StoppedError, UserError, is_out_of_memory
from cctkit.files import failing_disk
from cctkit.text import safe_text

# From the click that Typer uses; newer versions include their own.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickException: Any = typer.BadParameter.__mro__[2]
_LONGEST_LINE = 1000

app = typer.Typer(
    name="cctkit",
    help="Compact transformers for image classification: train, evaluate, account for every parameter.",
    cls=HelpGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: Mapping[str, Callable[..., None]] = {
    "check": check,
    "train": train,
    "eval": evaluate,
    "inspect": inspect_run,
    "predict": predict,
    "summarize": summarize,
    "compare": compare,
    "plot-lr": plot_lr,
    "curves": curves,
    "models": models,
    "recipes": recipes,
    "pack": pack,
    "import": import_weights,
    "export": export,
    "card": card,
    "bench": bench,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=HelpCommand)(_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cctkit {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colours, as NO_COLOR=1 does.")] = False,
) -> None:
    del version, no_color  # declared for the help; `_without_no_color` reads it
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: success; 2: usage or input; 3: diverged; 4: memory or disk; 5: run in use; 128 + signal.
    """
    words = with_lone_flags(_without_no_color(sys.argv[1:] if arguments is None else arguments))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # characters that the encoding of a terminal or pipe lacks
    try:
        code = app(args=words, prog_name="cctkit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        if failing_disk(error) and not isinstance(error, ResourceError):
            return _print_failing_disk(error.where)
        _print_error(error.what, error.where, error.remedy)
        return error.exit_code
    except ElsewhereError as error:
        if str(error):
            _print_error(str(error), None, None)
        return error.exit_code
    except StoppedError as stop:
        _print(str(stop))
        return stop.exit_code
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all processes of a job have the same command line
            _print_error(error.format_message(), None, f"see {context.command_path if context else 'cctkit'} --help")
        return UserError.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _print("stopped")
        return 130
    except _ClickException as error:
        _print_error(error.format_message(), None, None)
        return UserError.exit_code
    except (BrokenPipeError, SystemExit) as error:  # stdout was closed, as by `head`: Typer then exits with 1
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _print_error("memory ran out", None, "choose a smaller model or image size")
        return ResourceError.exit_code
    except OSError as error:
        if failing_disk(error):
            return _print_failing_disk(None if error.filename is None else str(error.filename))
        if error.filename is None:  # not about a file: a bug
            raise
        _print_error(str(error.strerror), str(error.filename), None)
        return UserError.exit_code


def _print_failing_disk(where: str | None) -> int:
    _print_error("the disk failed to read: Input/output error", where, "repeat it; if it fails again, check the disk")
    return ResourceError.exit_code


def _without_no_color(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--no-color`, which may follow any command; it is applied here."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    if "--no-color" in words[:end]:
        os.environ["NO_COLOR"] = "1"
    return [word for word in words[:end] if word != "--no-color"] + words[end:]


def _print_error(what: str, where: str | None, remedy: str | None) -> None:
    lines = [f"error: {what}", f"  in: {where}" if where else "", f"  try: {remedy}" if remedy else ""]
    _print("\n".join(safe_text(line.replace("\n", " "), _LONGEST_LINE) for line in lines if line))


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal does not change the exit code
        print_text(text, stream=sys.stderr)
