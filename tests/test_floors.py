"""A room imports only from floors below it; start-up imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cctkit"
FLOORS = (
    ("errors", "text", "catalog", "config", "schedule", "score", "rundir", "predictions"),
    ("models", "data", "metrics"),
    ("training", "evaluation", "inference", "plots", "api"),
    ("cli", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
APART = {("models", "data"), ("data", "models")}
HEAVY = {"torch", "torchvision", "safetensors", "matplotlib", "numpy", "rich", "plotext"}
LIGHT_FILES = [*ROOT.glob("cli/*.py"), *ROOT.glob("catalog/*.py"), *(ROOT / f"{room}.py" for room in FLOORS[0] if room != "catalog")]


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """The modules that a file imports, at its top level or `everywhere`; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def upward(root: Path) -> list[str]:
    """Every import under `root` that runs up a floor, or between rooms that are kept apart."""
    found = []
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for module in imports(path, everywhere=True):
            if not module.startswith("cctkit."):
                continue
            other = module.split(".")[1]
            if FLOOR_OF[other] > FLOOR_OF[room] or (room, other) in APART:
                found.append(f"{path.relative_to(root)} imports {module}")
    return found


def test_no_import_runs_up() -> None:
    assert upward(ROOT) == []


def test_the_walk_sees_an_arrow_that_runs_up(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("def f():\n    from cctkit.training import loop\nimport cctkit.data.plan\n")
    assert sorted(upward(tmp_path)) == ["models/a.py imports cctkit.data.plan", "models/a.py imports cctkit.training"]


@pytest.mark.parametrize("path", LIGHT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_start_up_files_import_nothing_heavy(path: Path) -> None:
    heavy = [name for name in imports(path, everywhere=False) if name.split(".")[0] in HEAVY]
    assert heavy == []
    deeper = [name for name in imports(path, everywhere=False) if name.startswith("cctkit.") and FLOOR_OF[name.split(".")[1]] in (1, 2)]
    assert deeper == []


def test_the_command_line_starts_without_torch_or_numpy() -> None:
    code = "import sys, cctkit.cli.app; print(sorted({'torch', 'torchvision', 'numpy', 'matplotlib', 'safetensors'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_public_name_can_be_loaded() -> None:
    import cctkit

    for name in cctkit.__all__:
        assert getattr(cctkit, name) is not None
    with pytest.raises(AttributeError):
        _ = cctkit.nothing


FORBIDDEN = ("pickle", "torch.load", "eval(", "exec(", "yaml.load", "allow_pickle", "marshal", "shelve")
ADMITTED = {"data/cifar.py": {"pickle"}}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_can_run_code(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text()))  # without comments
    tree = ast.parse(code)
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    keywords = {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
    imported = {module.split(".")[0] for module in imports(path, everywhere=True)}
    found = {word for word in FORBIDDEN if word in names | imported | keywords or word.removesuffix("(") in called}
    assert found <= ADMITTED.get(str(path.relative_to(ROOT)), set())
