"""The README is true: its outputs are what the commands print, its commands and flags are there, its pictures too."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from cctkit.catalog.counts import count
from cctkit.catalog.models import named_config
from cctkit.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

_spec = importlib.util.spec_from_file_location("outputs", ROOT / "docs" / "outputs.py")
assert _spec is not None
assert _spec.loader is not None
outputs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(outputs)

REPEATED = [(block["command"], block["output"]) for block in outputs.blocks(README) if not block["once"]]


@pytest.mark.parametrize(("command", "shown"), REPEATED, ids=[command for command, _ in REPEATED])
def test_an_output_is_what_the_command_prints(command: str, shown: str, tmp_path: Path) -> None:
    assert outputs.output_of(command, tmp_path) == shown


def test_each_kind_of_table_is_among_the_repeated_outputs() -> None:
    assert {command.split()[1] for command, _ in REPEATED} >= {"summarize", "compare", "plot-lr", "models"}


def test_every_command_of_the_readme_and_each_of_its_flags_exist() -> None:
    group = typer.main.get_command(app)
    found = re.findall(
        r"cctkit ((?:train|eval|summarize|compare|plot-lr|curves|models|recipes|import|bench|pack)\b[^`\n#|;]*)", README
    )
    assert len(found) > 10
    for line in found:
        name, *words = shlex.split(line, comments=True)
        known = {flag for option in group.commands[name].params for flag in (*option.opts, *option.secondary_opts)}  # type: ignore[attr-defined]
        flags = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, line


def test_every_picture_of_the_readme_is_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size > 1000 for picture in pictures)


def test_the_predicted_hours_follow_from_the_counted_macs_and_the_stated_assumptions() -> None:
    macs, images = count(named_config("cct_14_7x2_224")).macs, 1_281_167 * 310
    assert f"{macs:,} MACs" in README
    for gpus, efficiency in ((1, 1.0), (8, 0.95), (64, 0.85)):
        images_per_s = gpus * efficiency * 0.3 * 312e12 / (3 * 2 * macs)
        assert f"| {gpus} | {images_per_s:,.0f} | {images / images_per_s / 3600:.1f} |" in README
