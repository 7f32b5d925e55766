"""`cctkit import` through the command."""

from pathlib import Path

import pytest
import torch

from cctkit.catalog.models import named_config
from cctkit.cli.import_weights import import_weights
from cctkit.errors import UserError
from cctkit.evaluation.load import load
from cctkit.models.build import build_model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "cct_2_3x2_32_sine_cifar100.pth"
    config = named_config("cct_2_3x2", num_classes=100)
    torch.save(build_model(config, seed=6).state_dict(), path)
    return path


def test_an_imported_file_can_be_evaluated(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = published.with_name("w.safetensors")
    import_weights(published, model="cct_2_3x2_32_sine_c100", output=output)
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {output}: cct_2_3x2_32_sine_c100, 100 classes, 32x32 pixels",
        "note: the positional embedding is learnable, not sine as the name says: the published `_sine` models were built with "
        "learnable ones",
        f"next: cctkit eval {output}",
    ]
    model, info = load(output)
    assert info.dataset["name"] == "cifar100"
    state = torch.load(published, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_class_names_are_read_from_a_file_with_one_per_line(published: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {i}" for i in range(100)) + "\n\n", encoding="utf-8")
    output = tmp_path / "w.safetensors"
    import_weights(published, model="cct_2_3x2", output=output, classes=str(names), mean="0.5,0.5,0.5", std="0.2,0.2,0.2")
    assert load(output)[1].class_names[99] == "class 99"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": "0.5,0.5,0.5"}, "must be given together"),
        ({"mean": "0.5,0.5", "std": "1,1,1"}, "not three numbers"),
        ({"mean": "0.5,0.5,0.5", "std": "0,0.2,0.2"}, "not three numbers"),
        ({"mean": "nan,0.5,0.5", "std": "0.2,0.2,0.2"}, "not three numbers"),
        ({"classes": "no such file"}, "cannot read class names"),
        ({"image_size": "x"}, "expected pixels"),
    ],
)
def test_wrong_options_write_nothing(published: Path, options: dict[str, str], words: str) -> None:
    output = published.with_name("w.safetensors")
    with pytest.raises(UserError, match=words):
        import_weights(published, model="cct_2_3x2_32_c100", output=output, **options)
    assert not output.exists()


def test_the_size_of_the_token_grid_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, output = tmp_path / "cvt_2_4.pth", tmp_path / "w.safetensors"
    torch.save(build_model(named_config("cvt_2_4", num_classes=10), seed=6).state_dict(), foreign)
    import_weights(foreign, model="cvt_2_4_c10", output=output, image_size="48x32")
    note = "note: classifier.positional_emb interpolated from 8x8 to 12x8 tokens"  # patches of 4 pixels
    assert note in capsys.readouterr().out.splitlines()


def test_importing_our_own_weights_is_refused(published: Path, tmp_path: Path) -> None:
    ours = tmp_path / "w.safetensors"
    import_weights(published, model="cct_2_3x2_32_c100", output=ours)
    with pytest.raises(UserError, match="already is a weights file of cctkit"):
        import_weights(ours, model="cct_2_3x2_32_c100", output=tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_nothing_is_overwritten(published: Path) -> None:
    with pytest.raises(UserError, match="nothing is overwritten"):
        import_weights(published, model="cct_2_3x2_32_c100", output=published)
