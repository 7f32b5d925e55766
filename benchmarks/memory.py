"""Predicted against measured memory of a training step: `python -m benchmarks.memory`.

Measured is the peak of the allocator in two real steps on this CPU, by torch's profiler.
"""

import argparse
import json
from typing import Any

from cctkit.bench.training import training_peak_bytes
from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.models.build import build_without_data
from cctkit.summary.memory import memory_policy, predict_memory

MODELS = ("cct_2_3x2", "cct_4_3x2", "cct_6_3x2", "cct_6_3x1", "vit_lite_6_4")
MB = 2**20


def row_of(name: str, batch_size: int, dtype: str) -> dict[str, Any]:
    """A row of the table."""
    policy = memory_policy(device="cpu", dtype=dtype)
    config = named_config(name, num_classes=100)
    model = build_without_data(config)
    predicted = predict_memory(model, image_size=(32, 32), batch_size=batch_size, policy=policy).peak_bytes
    measured = training_peak_bytes(config, TrainConfig(), policy, batch_size=batch_size)
    return {
        "model": name,
        "batch_size": batch_size,
        "dtype": policy.precision,
        "attention": policy.attention,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error_percent": 100 * (predicted / measured - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="may be repeated; default: " + ", ".join(MODELS))
    parser.add_argument("--batch-size", type=int, action="append", help="may be repeated; default: 32, 128")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for name in args.model or MODELS:
        for batch_size in args.batch_size or (32, 128):
            for dtype in ("bf16", "float32"):
                row = row_of(name, batch_size, dtype)
                rows.append(row)
                if not args.json:
                    predicted, measured = row["predicted_bytes"] / MB, row["measured_bytes"] / MB
                    print(
                        f"{name:12} {batch_size:4} {dtype:8} {row['attention']:8} predicted {predicted:8.1f}  measured "
                        f"{measured:8.1f} MB  error {row['error_percent']:+.1f}%",
                        flush=True,
                    )
    if args.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
