"""What is wrong is told before torch, which takes seconds, is imported; and what is given without a flag."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cctkit.cli.app import run
from tests.conftest import write_images

WRONG = [
    ["train", "nowhere"],
    ["train", "-d", "nowhere", "--stream"],
    ["train", "digits", "--stream"],
    ["train", "full"],
    ["train", "digits", "-d", "cifar10"],
    ["train", "digits", "-m", "cct_9x"],
    ["train", "digits", "-r", "fats"],
    ["train", "digits", "-c", "nowhere.toml"],
    ["train", "digits", "-o", "full"],
    ["train", "digits", "-o", "full/file"],
    ["train", "digits", "-o", "full/file/run"],
    ["train", "digits", "--epochs", "0"],
    ["train", "digits", "--batch-size", "8", "--accumulate", "9"],
    ["train", "cifar100", "--min-lr", "1"],
    ["train", "digits", "-m", "cvt_7_4", "--image-size", "30"],
    ["train", "cifar100", "--no-download", "--data-dir", "nowhere"],
    ["train", "--resume", "nowhere"],
    ["pack", "nowhere", "-o", "packed"],
    ["eval", "-d", "nowhere"],
]


def test_invalid_options_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    code = """
import json, sys
from cctkit.cli.app import run
for arguments in json.loads(sys.argv[1]):
    code = run(arguments)
    assert code == 2, (arguments, code)
    assert not {"torch", "rich", "safetensors"} & sys.modules.keys(), arguments
"""
    command = [sys.executable, "-c", code, json.dumps(WRONG)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(WRONG)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_a_folder_given_without_a_flag_trains_with_a_batch_of_all_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "pets", {"cat": 15, "dog": 15}, size=(8, 8))
    common = ["--image-size", "8", "--epochs", "1", "--precision", "float32"]
    assert run(["train", str(tmp_path / "pets"), *common, "-o", str(tmp_path / "run")]) == 0
    assert "--batch-size is 24 instead of 128, since there are 24 training images" in capsys.readouterr().err
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["values"]["batch_size"], stored["values"]["dataset"]) == (24, str(tmp_path / "pets"))
    assert stored["origins"]["batch_size"].startswith("all training images, fewer than the 128 of: recipe ")
    for asked in ("25", "128"):
        flags = ["-d", str(tmp_path / "pets"), "--batch-size", asked]
        assert run(["train", str(tmp_path / "pets"), *flags, *common, "-o", str(tmp_path / "other")]) == 2
        assert f"the batch of {asked} is larger than the 24 training images" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
