"""What a user gets wrong is three lines and exit 2, and every flag that a message names exists."""

from pathlib import Path

import pytest

from tests.conftest import write_images

BAD = [
    (["train", "--model", "cct_6_3x"], "did you mean"),
    (["train", "--dataset", "EMPTY"], "no image"),
    (["train", "--dataset", "ONE"], "only one class"),
    (["train", "--dataset", "BROKEN", "--epochs", "1"], "text.png"),
    (["train", "--dataset", "NOWHERE"], "no such folder"),
    (["eval", "TORN"], "damaged"),
    (["eval", "FOREIGN"], "not from cctkit"),
    (["eval", "NOWHERE"], "no such weights file"),
    (["train", "--dataset", "digits", "--config", "CONFIG"], "unknown setting 'epoch'"),
    (["train", "--dataset", "digits", "--epochs", "0"], "expected at least 1"),
    (["train", "--dataset", "digits", "--epochs", "x"], "--epochs"),
    (["train", "--dataset", "digits", "--batch-size", "5000"], "larger than the 1,438 training images"),
    (["train", "--dataset", "digits", "-o", "EMPTY/.."], "nothing is overwritten"),
    (["train", "--dataset", "digits", "--early-stopping", "2"], "validation images"),
    (["train", "--dataset", "digits", "--choose-by", "loss"], "validation images"),
    (["train", "--dataset", "digits", "--class-weights", "--balanced-sampling", "0.5"], "twice"),
    (["train", "--dataset", "digits", "--balanced-sampling", "2"], "expected at most 1"),
    (["train", "--dataset", "digits", "--class-weights", "0"], "expected above 0"),
    (["train", "--dataset", "digits", "--recipe", "fats"], "did you mean fast"),
    (["train", "--dataset", "digits", "--freeze", "backbone"], "pass pretrained weights with --init"),
    (["train", "--dataset", "digits", "--epochs", "3", "--warmup-epochs", "4"], "do not fit into 3"),
    (["train", "--dataset", "cifar100", "--no-download"], "--data-dir"),
    (["train", "--dataset", "digits", "--flip", "--image-size", "4"], "at least 8 pixels"),
    (["train", "--dataset", "digits", "--auto-augment", "rand", "--no-auto-augment"], "contradict"),
    (["train", "--datset", "digits"], "--dataset"),
    (["trian"], "No such command"),
    (["train", "--dataset", "digits", "--device", "cuda"], "not available"),
]


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("bad")
    (root / "EMPTY").mkdir()
    write_images(root / "ONE", {"cat": 4})
    write_images(root / "BROKEN", {"cat": 4, "dog": 4})
    (root / "BROKEN" / "cat" / "text.png").write_text("text")
    save_file({"a": torch.ones(3)}, root / "FOREIGN")
    (root / "TORN").write_bytes((root / "FOREIGN").read_bytes()[:40])
    (root / "CONFIG").write_text("epoch = 3\n")
    return root


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_three_lines_and_exit_2_and_changes_nothing(
    arguments: list[str], words: str, bad_inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cctkit.cli.app import run

    monkeypatch.chdir(bad_inputs)
    before = {str(path): path.read_bytes() for path in bad_inputs.rglob("*") if path.is_file()}
    assert run(arguments) == 2
    streams = capsys.readouterr()
    assert words in streams.err
    message = streams.err[streams.err.index("error:") :]
    assert len(message.splitlines()) <= 3
    assert streams.out == ""
    assert {str(path): path.read_bytes() for path in bad_inputs.rglob("*") if path.is_file()} == before


def test_every_flag_named_in_a_message_exists() -> None:
    import re

    import typer

    from cctkit.cli.app import app

    group = typer.main.get_command(app)
    known = {"--version", "--help", "--shm-size", "--nproc-per-node", "--logdir"}  # docker's, torchrun's, TensorBoard's
    for command in group.commands.values():
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    known |= {option for parameter in group.params for option in parameter.opts}
    source = Path(__file__).parents[2] / "cctkit"
    named = {flag for path in source.rglob("*.py") for flag in re.findall(r"--[a-z][a-z0-9-]+[a-z0-9]", path.read_text())}
    assert named - known == set()
