"""What a run finds measured of the CPU: chosen by the tests, whatever this machine's CPU is good at."""

import os
from pathlib import Path

import pytest

CHOSEN = os.environ.get("CCTKIT_TEST_PROBE", "float32,chunked")  # of the tests that choose nothing: precision,attention
_MOST_THREADS = 8


def write_probe(cache: Path, choice: str = CHOSEN) -> Path:
    """Keep in `cache` that `choice`, "precision,attention", was measured here, by any number of threads up to eight."""
    import torch

    from cctkit.engine import probe

    precision, attention = choice.split(",")
    measured = probe.Probe(
        precision=precision,  # type: ignore[arg-type]
        attention=attention,  # type: ignore[arg-type]
        attention_with_dropout="chunked" if attention == "fused" else attention,  # type: ignore[arg-type]
    )
    threads = range(1, max(_MOST_THREADS, torch.get_num_threads()) + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCTKIT_CACHE", str(cache))
        patch.setattr(probe, "measure", lambda: measured)
        for number in threads:
            patch.setattr(torch, "get_num_threads", lambda number=number: number)
            probe.probe()
    return cache
