"""Shell completion of models, data sets, recipes and weights, without torch."""

from collections.abc import Iterable

from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import MODELS
from cctkit.catalog.pretrained import PRETRAINED
from cctkit.catalog.recipes import RECIPES


def models(incomplete: str) -> list[str]:
    """Models whose names begin with `incomplete`."""
    return _beginning(MODELS, incomplete)


def recipes(incomplete: str) -> list[str]:
    """Recipes whose names begin with `incomplete`."""
    return _beginning(RECIPES, incomplete)


def datasets(incomplete: str) -> list[str]:
    """Data sets whose names begin with `incomplete`; if there are none, the shell offers files and folders."""
    return _beginning(DATASETS, incomplete)


def weights(incomplete: str) -> list[str]:
    """Pretrained weights whose names begin with `incomplete`; if there are none, the shell offers files."""
    return _beginning(PRETRAINED, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
