"""A room imports only from floors below it; start-up imports nothing heavy; no data can run code."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cctkit"
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = (
    {"errors", "text"},
    {"files", "digests", "locking", "columns", "torch_private"},
    {"config"},
    {"catalog"},
    {"runs"},
    {"plots"},
    {"models", "data"},
    {"engine"},
    {"evaluation"},
    {"training", "prediction", "hub", "export"},
    {"summary", "bench", "api"},
    {"inspection"},
    {"cli"},
    {"__main__"},
)
"""From the ground up. A room imports those of lower floors only."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LIGHT_ROOMS = {
    "errors",
    "text",
    "files",
    "digests",
    "locking",
    "columns",
    "config",
    "catalog",
    "runs",
    "cli",
    "__init__",
    "__main__",
}
LIGHT_FILES = {"training/budget.py", "training/reporter.py", "training/request.py", "training/schedule.py"}
"""What `--help` may load."""
HEAVY = {"torch", "torchvision", "safetensors", "matplotlib", "numpy", "rich", "plotext", "PIL"}


def name_of(path: Path, root: Path = ROOT) -> str:
    return str(path.relative_to(root))


def imports(path: Path, root: Path = ROOT, *, at_start: bool = False) -> Iterator[str]:
    """Every module that a file imports, relative ones in full, `from cctkit import x` as `cctkit.x`.

    at_start: only what is imported with the file, so neither inside of functions nor for type checkers.
    """
    package = [root.name, *path.relative_to(root).parts[:-1]]
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_start=at_start):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            if module == root.name:
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


def _statements(node: ast.AST, *, at_start: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_start and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if at_start and isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield other
                yield from _statements(other, at_start=True)
            continue
        yield child
        yield from _statements(child, at_start=at_start)


def wrong_arrows(path: Path, root: Path = ROOT) -> list[str]:
    """The imports of a file that run up, or across a floor. Every room must have a floor."""
    room = path.relative_to(root).parts[0].removesuffix(".py")
    if room == "__init__":  # the public names of all floors, loaded when they are used
        return [module for module in imports(path, root, at_start=True) if module.startswith(f"{root.name}.")]
    if room not in FLOOR_OF:
        return [f"{room} has no floor: add it to FLOORS"]
    wrong = []
    for module in imports(path, root):
        top, _, inner = module.partition(".")
        other = inner.split(".")[0]
        if top != root.name or other in {room, "", "__version__"}:
            continue
        if FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]:
            wrong.append(module)
    return wrong


def heavy_at_start(path: Path, root: Path = ROOT) -> list[str]:
    """What a file imports with itself that the start of the command line cannot afford."""
    return [module for module in imports(path, root, at_start=True) if module.split(".")[0] in HEAVY or _is_heavy_room(module)]


def _is_heavy_room(module: str) -> bool:
    """Whether an import of ours is of a room that needs torch."""
    top, _, inner = module.partition(".")
    file = f"{inner.replace('.', '/')}.py"
    return top == "cctkit" and inner.split(".")[0] in FLOOR_OF.keys() - LIGHT_ROOMS and file not in LIGHT_FILES


def is_light(path: Path) -> bool:
    """Whether a file may be loaded by `--help`."""
    file = str(path.relative_to(ROOT))
    return file.split("/")[0].removesuffix(".py") in LIGHT_ROOMS or file in LIGHT_FILES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_import_runs_up(path: Path) -> None:
    assert wrong_arrows(path) == []


@pytest.mark.parametrize("path", [path for path in FILES if is_light(path)], ids=name_of)
def test_start_up_files_import_nothing_heavy(path: Path) -> None:
    assert heavy_at_start(path) == []


TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("models/a.py", "import cctkit.training.loop", ["cctkit.training.loop"]),
        ("models/a.py", "from cctkit.training import loop", ["cctkit.training"]),
        ("models/a.py", "from cctkit import training", ["cctkit.training"]),
        ("models/deep/a.py", "from ...training import loop", ["cctkit.training"]),
        ("models/a.py", "from .. import cli", ["cctkit.cli"]),
        ("models/a.py", "def f():\n    from cctkit.cli import app", ["cctkit.cli"]),
        ("models/a.py", "try:\n    import cctkit.api\nexcept ImportError:\n    pass", ["cctkit.api"]),
        ("models/a.py", TYPING + "import cctkit.training.loop", ["cctkit.training.loop"]),
        ("models/a.py", "from cctkit.data.epoch.plan import EpochPlan", ["cctkit.data.epoch.plan"]),
        ("data/a.py", "from cctkit.models import build", ["cctkit.models"]),
        ("data/a.py", "import cctkit.engine.device", ["cctkit.engine.device"]),
        ("config.py", "from cctkit.models.build import build_model", ["cctkit.models.build"]),
        ("training/a.py", "from cctkit.cli.progress import LiveReporter", ["cctkit.cli.progress"]),
        ("models/a.py", "import cctkit.attic", ["cctkit.attic"]),
        ("attic.py", "import math", ["attic has no floor: add it to FLOORS"]),
        ("__init__.py", "import cctkit.errors", ["cctkit.errors"]),
        ("__init__.py", TYPING + "from cctkit.api import fit\ndef f():\n    import cctkit.api", []),
        ("models/a.py", "import torch\nfrom . import b\nfrom .c import d\nfrom cctkit import __version__\nimport cctkit", []),
        ("models/a.py", "from cctkit.errors import UserError\nfrom ..text import safe_text", []),
        (
            "training/a.py",
            "from cctkit.evaluation.evaluate import evaluate_split\nimport cctkit.models.build, cctkit.data.epoch.plan",
            [],
        ),
        ("cli/a.py", "def f():\n    import cctkit.training.run", []),
        ("config.py", "import cctkitchen.training", []),
    ],
)
def test_the_walk_sees_each_kind_of_arrow(tmp_path: Path, file: str, code: str, wrong: list[str]) -> None:
    path = tmp_path / "cctkit" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert wrong_arrows(path, tmp_path / "cctkit") == wrong


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import torch", ["torch"]),
        ("from torch import nn", ["torch"]),
        ("import os, matplotlib.pyplot as plt", ["matplotlib.pyplot"]),
        ("try:\n    import numpy\nexcept ImportError:\n    numpy = None", ["numpy"]),
        ("class A:\n    import safetensors.numpy", ["safetensors.numpy"]),
        ("import cctkit.training.loop", ["cctkit.training.loop"]),
        ("from cctkit.evaluation.metrics import Metrics", ["cctkit.evaluation.metrics"]),
        ("if True:\n    import rich", ["rich"]),
        (TYPING + "import math\nelse:\n    import torch", ["torch"]),
        (TYPING + "import torch", []),
        ("def f():\n    import torch\nasync def g():\n    import numpy", []),
        ("class A:\n    def f(self):\n        import torch", []),
        ("import json\nimport typer\nimport torchless\nfrom cctkit.config.settings import TrainConfig", []),
    ],
)
def test_the_walk_tells_what_is_imported_at_the_start(tmp_path: Path, code: str, heavy: list[str]) -> None:
    path = tmp_path / "cctkit" / "cli" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert heavy_at_start(path, tmp_path / "cctkit") == heavy


def test_the_command_line_and_floor_0_start_without_anything_heavy() -> None:
    """What no walk sees: an import by a library, or by its name."""
    modules = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES if is_light(path)]
    floor_0 = [module.removesuffix(".__init__") for module in modules if ".cli." not in module and "__main__" not in module]
    code = f"import sys, cctkit.cli.app, {', '.join(floor_0)}; print(sorted(set({sorted(HEAVY)!r}) & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_public_name_can_be_loaded() -> None:
    import cctkit

    for name in cctkit.__all__:
        assert getattr(cctkit, name) is not None
    with pytest.raises(AttributeError):
        _ = cctkit.nothing


FORBIDDEN = ("pickle", "torch.load", "eval(", "exec(", "yaml.load", "allow_pickle", "marshal", "shelve")
# The reader of CIFAR's Python batches, after their checksum, and the importer of foreign weights.
ADMITTED = {"data/sources/cifar.py": {"pickle"}, "models/foreign.py": {"torch.load"}}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_data_can_run_code(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text()))  # without comments
    tree = ast.parse(code)
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    keywords = {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
    imported = {module.split(".")[0] for module in imports(path)}
    found = {word for word in FORBIDDEN if word in names | imported | keywords or word.removesuffix("(") in called}
    assert found <= ADMITTED.get(name_of(path), set())
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    assert all("weights_only=True" in map(ast.unparse, call.keywords) for call in loads)
