"""Track a run with a program of your own: here each epoch becomes a line of a CSV file.

python examples/own_tracker.py path/to/images runs/mine      # again: goes on where it was interrupted
"""

import csv
import sys
from pathlib import Path
from typing import Any

import cctkit

COLUMNS = ("epoch", "lr", "train_loss", "val_loss", "val_top1_percent")


class CsvTracker(cctkit.Reporter):
    def started(self, run: Any) -> None:  # also of a resumed run: with the epochs so far
        self.path = run.path / "epochs.csv"
        self.path.write_text(",".join(COLUMNS) + "\n")
        for record in run.records:
            self.epoch(record, run.settings["epochs"])

    def epoch(self, record: Any, epochs: int) -> None:  # for a client: client.log(record, step=record["epoch"])
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([record.get(name) for name in COLUMNS])

    def finished(self, result: Any) -> None:
        print(f"top-1 {result['top1_percent']:.2f}%; the epochs are in {self.path}")


def main(images: Path, run: Path, **settings: Any) -> dict[str, Any]:
    if run.exists():
        return cctkit.resume(run, reporter=CsvTracker())
    return cctkit.fit(dataset=str(images), output=run, val_fraction=0.1, reporter=CsvTracker(), **settings)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]), epochs=10)
