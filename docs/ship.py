"""Put the weights of a finished run, with its files and its model card, into the package: `python docs/ship.py --help`.

The result, `cctkit/weights/NAME`, is a run directory without checkpoints and predictions. Its weights are the run's, byte for
byte; paths of this machine become FOLDER and RUN.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from cctkit.files import new_folder
from cctkit.hub.card import FILL_IN
from cctkit.hub.folder import write_hub_folder
from cctkit.runs.paths import RunPaths, shipped_run

KEPT = ("config.json", "env.json", "metrics.jsonl", "result.json", "weights.safetensors")
LICENCES = "The weights are under cctkit's MIT licence. CIFAR-100 (Krizhevsky 2009) comes without a stated licence."


def neutral(text: str, run: Path) -> str:
    """`config.json` or `env.json` without the paths and the name of this machine."""
    dataset = json.loads(RunPaths(run).config.read_text(encoding="utf-8"))["values"]["dataset"]
    values = json.loads(text.replace(json.dumps(str(run)), '"RUN"').replace(json.dumps(dataset), '"FOLDER"'))
    if values.get("launch"):  # names the machine of a job under torchrun
        values["launch"] = None
    return json.dumps(values, indent=2) + "\n"


def card(run: Path, name: str, purpose: str) -> str:
    """The model card of a run, its gap filled."""
    with tempfile.TemporaryDirectory() as folder:
        write_hub_folder(run, Path(folder) / name, onnx=None, notify=print)
        lines = (Path(folder) / name / "README.md").read_text(encoding="utf-8").splitlines(keepends=True)
    filled = {'license: "unknown"\n': 'license: "mit"\n'}
    filled |= {line: f"{purpose}\n" for line in lines if line.startswith(f"> {FILL_IN}")}
    return "".join(filled.get(line, line) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=lambda path: Path(path).absolute(), help="a finished run directory")
    parser.add_argument("name", help="a model's name with its classes, such as cct_2_3x2_c100")
    parser.add_argument("--commit", required=True, help="of cctkit, that the run was made with")
    parser.add_argument("--purpose", required=True, help="a sentence or two on what the weights are for")
    options = parser.parse_args()
    output = shipped_run(options.name)
    output.parent.mkdir(exist_ok=True)
    with new_folder(output) as beside:
        for name in KEPT:
            shutil.copyfile(options.run / name, beside / name)
        for name in ("config.json", "env.json"):
            text = (beside / name).read_text(encoding="utf-8")
            (beside / name).write_text(neutral(text, options.run), encoding="utf-8")
        made = f"Made with cctkit's commit {options.commit}; FOLDER holds the images as folders, RUN is the run directory."
        text = card(beside, options.name, f"{options.purpose} {LICENCES} {made}")
        (beside / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
