"""Runs a command line in this process."""

import contextlib
import io

from cctkit.cli import app


def printed_by(words: list[str]) -> tuple[int | str, str, str]:
    """Exit code, or the name of what was raised; stdout; stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = app.run(words)
        except Exception as error:  # a traceback is what is looked for
            code = f"{type(error).__name__}: {str(error)[:200]!r}"
    return code, out.getvalue(), err.getvalue()
