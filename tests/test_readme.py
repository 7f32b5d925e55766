"""README.md and docs are true: outputs are what the commands print; commands, flags and links exist; none is forgotten."""

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from cctkit.catalog.counts import count
from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import named_config
from cctkit.catalog.recipes import RECIPES
from cctkit.cli.app import app
from tests.test_floors import FLOORS

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A program of docs/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outputs, links = script("outputs"), script("links")

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in links.documents()}
ALL = "\n".join(PAGES.values())
GROUP = typer.main.get_command(app)
COMMANDS = list(GROUP.commands)  # type: ignore[attr-defined]
REPEATED = {block["command"]: block["output"] for text in PAGES.values() for block in outputs.blocks(text) if not block["once"]}


@pytest.mark.parametrize("command", REPEATED)
def test_an_output_is_what_the_command_prints(command: str, tmp_path: Path) -> None:
    assert outputs.output_of(command, tmp_path) == REPEATED[command]


AFTERNOON = [block["command"] for block in outputs.blocks(PAGES["docs/guides/afternoon.md"])]


def test_the_afternoon_goes_from_the_check_to_the_card() -> None:
    assert [command.split()[1] for command in AFTERNOON] == ["check", "check", "train", "eval", "inspect", "predict", "card"]


@pytest.mark.slow
def test_the_commands_of_the_afternoon_run_one_after_the_other(tmp_path: Path) -> None:
    outputs.make_garden(tmp_path / "garden")
    for command in AFTERNOON:
        outputs.output_of(command.replace("--time 3m", "--epochs 2"), tmp_path)
    written = {"garden-run", "classes.csv", "confusion.png", "garden.html", "garden-model"}
    assert {path.name for path in tmp_path.iterdir()} == {"garden", "mended"} | written


def test_each_kind_of_table_is_among_the_repeated_outputs() -> None:
    assert {command.split()[1] for command in REPEATED} >= {"summarize", "compare", "plot-lr", "models"}


def test_every_command_in_a_page_and_each_of_its_flags_exist() -> None:
    found = re.findall(rf"cctkit ((?:{'|'.join(COMMANDS)})\b(?:[^`\n#|;\\]|\\\n)*)", ALL)
    assert len(found) > 30
    for line in found:
        name, *words = shlex.split(line.replace("\\\n", " "), comments=True)
        known = {flag for option in GROUP.commands[name].params for flag in (*option.opts, *option.secondary_opts)}  # type: ignore[attr-defined]
        flags = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, line


@pytest.mark.parametrize("page", PAGES)
def test_no_link_of_a_page_is_broken(page: str) -> None:
    assert list(links.broken_links(ROOT / page, PAGES[page])) == []


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("no-such-page.md", "no such file"),
        ("README.md#no-such-heading", "no such heading"),
        ("htps://pytorch.org", "https"),
        ("https://pytorch", "host"),
    ],
)
def test_a_broken_link_is_found(target: str, fault: str) -> None:
    (found,) = links.broken_links(ROOT / "README.md", f"see [there]({target})")
    assert fault in found


def test_every_picture_of_a_page_is_there() -> None:
    pictures = {
        (ROOT / page).parent / name for page, text in PAGES.items() for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    }
    assert len(pictures) > 2
    assert all(picture.stat().st_size > 1000 for picture in pictures)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_a_row_for_every_command(name: str) -> None:
    assert f"\n| `cctkit {name}` | " in README


@pytest.mark.parametrize("page", ["README.md", "docs"])
@pytest.mark.parametrize("name", [*COMMANDS, *RECIPES, *DATASETS])
def test_no_command_recipe_or_data_set_is_forgotten(name: str, page: str) -> None:
    text = "\n".join(text for path, text in PAGES.items() if path.startswith(page))
    assert re.search(rf"`(cctkit )?{name}\b[^`\n]*`", text) or f"\ncctkit {name} " in text


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 180


def files_of_the_map() -> set[str]:
    found: set[str] = set()
    for part in PAGES["docs/map.md"].split("\n### ")[1:]:
        folder = part.split("`")[1]
        found |= {f"{folder}{name}" for name in re.findall(r"^\| `([^`]+)` \| \S", part, re.MULTILINE)}
    return found


def test_the_map_has_a_line_for_every_file_and_for_no_other() -> None:
    files = {path for folder in ("cctkit", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    has_code = {path for path in files if len(ast.parse(path.read_text(encoding="utf-8")).body) > 1}
    assert files_of_the_map() == {path.relative_to(ROOT).as_posix() for path in has_code}


def test_the_map_has_the_order_of_the_imports() -> None:
    assert "\n" + "; ".join(", ".join(f"`{part}`" for part in sorted(parts)) for parts in FLOORS) + "\n" in PAGES["docs/map.md"]


def test_what_the_map_says_to_touch_is_in_the_file_named_after_it() -> None:
    found = re.findall(r"`([\w.]+)(?:\(\.*\))?` in `([\w/]+\.py)`", PAGES["docs/map.md"])
    assert len(found) > 10
    for name, file in found:
        assert name.split(".")[-1] in (ROOT / file).read_text(encoding="utf-8"), (name, file)


def test_every_file_that_a_page_names_is_there() -> None:
    text = re.sub(r"^```console.*?^```", "", ALL, flags=re.MULTILINE | re.DOTALL)  # outputs name other repositories' files
    named = set(re.findall(r"(?<![\w/])(?:cctkit|benchmarks|tests|docs|examples)/[\w/.-]+\.(?:py|md|png|svg)\b", text))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_predicted_hours_follow_from_the_counted_macs_and_the_stated_assumptions() -> None:
    macs, images = count(named_config("cct_14_7x2_224")).macs, 1_281_167 * 310
    assert f"{macs:,} MACs" in ALL
    for gpus, efficiency in ((1, 1.0), (8, 0.95), (64, 0.85)):
        images_per_s = gpus * efficiency * 0.3 * 312e12 / (3 * 2 * macs)
        assert f"| {gpus} | {images_per_s:,.0f} | {images / images_per_s / 3600:.1f} |" in ALL
