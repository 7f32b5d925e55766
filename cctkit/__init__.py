"""cctkit: compact transformers for image classification.

The public names are loaded when they are used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Prediction",
    "Reporter",
    "TrainConfig",
    "UserError",
    "__version__",
    "create_model",
    "evaluate",
    "fit",
    "load",
    "resume",
    "summarize",
]

if TYPE_CHECKING:
    from cctkit.api import evaluate, fit, resume
    from cctkit.config.settings import TrainConfig
    from cctkit.errors import UserError
    from cctkit.evaluation.load import load
    from cctkit.models.build import create_model
    from cctkit.prediction.classifier import Classifier, Prediction
    from cctkit.summary.summary import summarize
    from cctkit.training.reporter import Reporter

_HOME = {
    "Classifier": "cctkit.prediction.classifier",
    "Prediction": "cctkit.prediction.classifier",
    "Reporter": "cctkit.training.reporter",
    "TrainConfig": "cctkit.config.settings",
    "UserError": "cctkit.errors",
    "create_model": "cctkit.models.build",
    "evaluate": "cctkit.api",
    "fit": "cctkit.api",
    "load": "cctkit.evaluation.load",
    "resume": "cctkit.api",
    "summarize": "cctkit.summary.summary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cctkit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
