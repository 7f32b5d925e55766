"""Processes for measurements that must not share memory, imports or settings."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def fresh_process(**variables: str) -> ProcessPoolExecutor:
    """An executor with one new process, which waits between its calls. What it prints on stdout goes to stderr.

    variables: added to its environment.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_begin, initargs=(variables,))


def _begin(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    os.dup2(2, 1)  # stdout is for the JSON of the benchmark


def call(function: Callable[..., Any], *arguments: Any, **variables: str) -> Any:
    """`function(*arguments)`, run in a fresh process."""
    with fresh_process(**variables) as process:
        return process.submit(function, *arguments).result()
