"""Convolutions that turn images into tokens: `Compact-Transformers/src/utils/tokenizer.py`."""

import itertools

from torch import Tensor, nn

from cctkit.catalog.counts import conv_planes
from cctkit.config.model import ModelConfig
from cctkit.errors import UserError
from cctkit.models.attention import HasAttentionImpl


class Tokenizer(HasAttentionImpl):
    """(B, 3, height, width) -> (B, N, D).

    CCT: `num_convs` times convolution, ReLU and 3 x 3 max-pooling with stride 2. CVT and ViT-Lite: one convolution with
    kernel and stride of the patch size. Except in `plain` the ReLU follows the max-pooling: the same values and gradients
    for a quarter of the work.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cuts_patches = config.family in ("cvt", "vit_lite")
        self.conv_layers = nn.Sequential(*([_patch_layer(config)] if cuts_patches else _cct_layers(config)))
        self.flattener = nn.Flatten(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention_impl == "plain":
            x = self.conv_layers(x)
        else:
            for layer in self.conv_layers:
                conv, activation, pool = layer.children()
                x = activation(pool(conv(x)))
        return self.flattener(x).transpose(-2, -1)  # type: ignore[no-any-return]


def _cct_layers(config: ModelConfig) -> list[nn.Sequential]:
    kernel = config.kernel_size
    return [
        nn.Sequential(
            nn.Conv2d(before, after, kernel, stride=max(1, kernel // 2 - 1), padding=max(1, kernel // 2), bias=False),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        for before, after in itertools.pairwise(conv_planes(config))
    ]


def _patch_layer(config: ModelConfig) -> nn.Sequential:
    patch = config.patch_size
    return nn.Sequential(nn.Conv2d(3, config.embed_dim, patch, stride=patch), nn.Identity(), nn.Identity())


def check_size(images: Tensor, config: ModelConfig) -> None:
    """Check the size of images (B, 3, height, width); another size could give the same number of tokens.

    Raises: UserError if it is not the model's image size.
    """
    height, width = images.shape[-2:]
    if (height, width) != config.image_size:
        expected = "x".join(map(str, config.image_size))
        raise UserError(f"the model takes images of {expected} pixels, got {height}x{width}", config.name)
