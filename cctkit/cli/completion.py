"""Shell completion of models, data sets, recipes and weights, without torch."""

from collections.abc import Callable, Iterable

from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import MODELS
from cctkit.catalog.pretrained import PRETRAINED
from cctkit.catalog.recipes import RECIPES


def _completion(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completes names; if none begins with `incomplete`, the shell offers files."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


models = _completion(MODELS)
recipes = _completion(RECIPES)
datasets = _completion(DATASETS)
weights = _completion(PRETRAINED)
