"""From a configuration, or a name of the catalog, to a model."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cctkit.catalog.models import MODELS, named_config
from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.errors import UserError
from cctkit.models.attention import AttentionImpl, HasAttentionImpl
from cctkit.models.classifier import CompactTransformer
from cctkit.text import did_you_mean, safe_text


def build_model(config: ModelConfig, *, seed: int | None = None) -> nn.Module:
    """The model of `config` in float32 on the CPU, newly initialized. With a seed, torch's generators are not changed."""
    if seed is None:
        return _build(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        return _build(config)


def build_without_data(config: ModelConfig) -> nn.Module:
    """The model of `config` on the meta device: modules and shapes without data."""
    with torch.device("meta"), _Unfilled():
        return _build(config)


def torchvision_without_data(name: str, *, num_classes: int) -> tuple[nn.Module, Size]:
    """A torchvision classifier by name, on the meta device, and the image size of its pretrained weights.

    Raises: UserError if there is no such model.
    """
    from torchvision import models  # takes two seconds

    names = models.list_models(module=models)
    if name not in names:
        remedy = did_you_mean(name, [*MODELS, *names], "cctkit models lists ours; torchvision's are resnet50, vgg16, ...")
        raise UserError(f"unknown model '{safe_text(name)}', here and in torchvision", "--model", remedy)

    def build(device: str) -> nn.Module:
        with torch.device(device), _Unfilled(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # on how GoogLeNet will be initialised
            return models.get_model(name, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]

    try:
        model = build("meta")
    except NotImplementedError:  # RegNets compute their sizes with tensors
        model = build("cpu").to("meta")
    side = models.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    return model, (side, side)


class _Unfilled(TorchFunctionMode):
    """Skips the initialization: on meta it does nothing, but makes torch import its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _build(config: ModelConfig) -> nn.Module:
    if config.family != "vit":
        return CompactTransformer(config)
    from cctkit.models.vision_transformer import VisionTransformer  # torchvision takes two seconds

    return VisionTransformer(config)


def create_model(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **options: Any
) -> nn.Module:
    """A model of the catalog: `create_model("cct_6_3x1", num_classes=100, image_size=32, drop_path=0.2)`.

    Maps normalized images (B, 3, height, width) to logits (B, num_classes).

    num_classes, image_size: default to those of a published name (`cct_7_3x1_32_sine_c100`).
    image_size: side, or (height, width), in pixels.
    options: fields of `ModelOptions` (widths, rates, positional embedding).

    Raises: UserError for an unknown name or option; it names the nearest known ones.
    """
    return build_model(named_config(name, num_classes=num_classes, image_size=image_size, **options))


def set_attention_impl(model: nn.Module, attention_impl: AttentionImpl) -> None:
    """Use this implementation in every `HasAttentionImpl` of `model`."""
    for module in model.modules():
        if isinstance(module, HasAttentionImpl):
            module.attention_impl = attention_impl
