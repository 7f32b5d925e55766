"""What the shell's completion offers for names of the catalog, without torch."""

from collections.abc import Iterable

from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import MODELS
from cctkit.catalog.pretrained import PRETRAINED
from cctkit.catalog.recipes import RECIPES


def models(incomplete: str) -> list[str]:
    """The models whose names begin so."""
    return _beginning(MODELS, incomplete)


def recipes(incomplete: str) -> list[str]:
    """The recipes whose names begin so."""
    return _beginning(RECIPES, incomplete)


def datasets(incomplete: str) -> list[str]:
    """The named data sets that begin so; where there is none, the shell offers the files and folders that do."""
    return _beginning(DATASETS, incomplete)


def weights(incomplete: str) -> list[str]:
    """The names of pretrained weights that begin so; where there is none, the shell offers files."""
    return _beginning(PRETRAINED, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
