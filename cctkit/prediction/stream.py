"""Classifies image files in batches while threads decode the next ones; memory does not grow with their number."""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from cctkit.data.preprocess import Preprocess, strict_pillow
from cctkit.data.source import BadImageError, Pixels
from cctkit.data.workers import available_cores
from cctkit.evaluation.evaluate import BATCH_SIZE
from cctkit.prediction.classifier import Classifier, Prediction
from cctkit.prediction.heatmap import HeatmapFolder, Weights, pooling_weights
from cctkit.prediction.inputs import ImageFile

_CHUNK = 25  # images a thread decodes at a time; divides BATCH_SIZE
_AHEAD_BYTES = 128 * 2**20
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilePrediction:
    """A file and its classes, or why it has none.

    heatmap: the file of its heat map, if there is one.
    """

    path: str
    prediction: Prediction | None
    error: str | None
    heatmap: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunk:
    """Files, those that are images, and why the others are none.

    pixels: uint8 (n, 3, h, w) of the n files without an error.
    """

    files: list[ImageFile]
    errors: list[str | None]
    pixels: Pixels


def predict_files(
    classifier: Classifier,
    files: Iterable[ImageFile],
    *,
    top: int = 1,
    heatmaps: HeatmapFolder | None = None,
    check: Callable[[], None] = lambda: None,
) -> Generator[list[FilePrediction]]:
    """Classify files in batches of 250, in order; a broken image leaves its place in the batch empty.

    check: called at least every 0.1 s while images are read; may raise to stop.

    Raises: what `files` raises.
    """
    chunks = _decoded(files, classifier.preprocess, check)
    with strict_pillow(), contextlib.closing(chunks):
        while batch := list(islice(chunks, BATCH_SIZE // _CHUNK)):
            yield _classified(classifier, batch, top=top, heatmaps=heatmaps)


def _classified(
    classifier: Classifier, batch: list[_Chunk], *, top: int, heatmaps: HeatmapFolder | None
) -> list[FilePrediction]:
    files = [file for chunk in batch for file in chunk.files]
    errors = [error for chunk in batch for error in chunk.errors]
    images = torch.from_numpy(np.concatenate([chunk.pixels for chunk in batch]))
    found: Iterator[Prediction | None] = iter(())
    maps: Iterator[Weights] = iter(())
    if len(images):
        with pooling_weights(classifier.model, wanted=heatmaps is not None) as weights:
            found = iter(classifier.predictions(classifier.logits(images), top=top))
        maps = iter(weights)
    rows = []
    for file, error in zip(files, errors, strict=True):
        prediction = heatmap = None
        if error is None:
            prediction, tokens = next(found), next(maps, None)
            if prediction is None:
                error = "the model's output is not finite"
            elif heatmaps is not None and tokens is not None:
                try:
                    heatmap = heatmaps.save(file, tokens)
                except BadImageError as reason:  # the file was changed since its pixels were read
                    prediction, error = None, str(reason)
        rows.append(FilePrediction(path=file.path, prediction=prediction, error=error, heatmap=heatmap))
    return rows


def _decoded(files: Iterable[ImageFile], preprocess: Preprocess, check: Callable[[], None]) -> Generator[_Chunk]:
    """The files in chunks, decoded ahead by one thread per core: decoders release Python's lock."""
    each, stopped = iter(files), threading.Event()
    cores = available_cores()
    most = max(cores + 1, min(2 * BATCH_SIZE, _AHEAD_BYTES // (3 * math.prod(preprocess.stored_size))) // _CHUNK)
    waiting: deque[Future[_Chunk]] = deque()
    pool = ThreadPoolExecutor(cores, thread_name_prefix="decode")
    try:
        while True:
            while len(waiting) < most and (some := list(islice(each, _CHUNK))):
                waiting.append(pool.submit(_load, some, preprocess, stopped))
            if not waiting:
                return
            with contextlib.suppress(NotYet):
                found = waiting[0].result(timeout=_POLL_S)
                waiting.popleft()
                yield found
            check()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _load(files: list[ImageFile], preprocess: Preprocess, stopped: threading.Event) -> _Chunk:
    images, errors = np.empty((len(files), 3, *preprocess.stored_size), dtype=np.uint8), [file.error for file in files]
    number = 0
    for i, file in enumerate(files):
        if errors[i] is None and not stopped.is_set():
            try:
                images[number] = preprocess.load(file.path)
                number += 1
            except BadImageError as error:
                errors[i] = str(error)
    return _Chunk(files=files, errors=errors, pixels=images[:number])
