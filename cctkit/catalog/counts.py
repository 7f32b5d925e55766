"""Weights and multiply-adds of a model in closed form, so that tables need no torch."""

from dataclasses import dataclass

from cctkit.config.settings import ModelConfig
from cctkit.config.size import Size

CCT_PLANES = 64
"""Channels between the tokenizer's convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """weights: all; without_embeddings: but for positions and class token; macs: of one image, attention products included."""

    weights: int
    without_embeddings: int
    macs: int


def conv_sides(config: ModelConfig, pixels: int) -> list[tuple[int, int]]:
    """(side after the convolution, side of the tokens that go on) along an axis of `pixels`, for each convolution."""
    if config.family != "cct":
        return [(pixels // config.patch_size,) * 2]
    kernel, sides = config.kernel_size, []
    for _ in range(config.num_convs):
        conv = (pixels + 2 * max(1, kernel // 2) - kernel) // max(1, kernel // 2 - 1) + 1
        pixels = (conv - 1) // 2 + 1  # the 3 x 3 max-pool of stride 2
        sides.append((conv, pixels))
    return sides


def grid_size(config: ModelConfig) -> Size:
    """Rows and columns of the tokens that the tokenizer makes of one image."""
    height, width = config.image_size
    return conv_sides(config, height)[-1][1], conv_sides(config, width)[-1][1]


def has_class_token(config: ModelConfig) -> bool:
    """Whether a class token is classified; CCT and CVT pool the sequence in its place."""
    return config.family in ("vit_lite", "vit")


def count(config: ModelConfig) -> Counts:
    """The counts of the model that `models.build` builds of `config`."""
    width, classes = config.embed_dim, config.num_classes
    hidden = int(width * config.mlp_ratio)
    rows, columns = grid_size(config)
    tokens = rows * columns + has_class_token(config)
    conv_weights, conv_macs = _convolutions(config)
    matrices = 4 * width * width + 2 * width * hidden
    vectors = 4 * width + width + hidden + width  # two norms; the biases of the projection and of the MLP
    if config.family == "vit":
        vectors += 3 * width  # torchvision's attention has biases on queries, keys and values
    head = width * classes + classes
    pool = 0 if has_class_token(config) else width + 1
    plain = conv_weights + config.num_layers * (matrices + vectors) + 2 * width + pool + head
    embeddings = has_class_token(config) * width + (config.positional_embedding != "none") * tokens * width
    block_macs = tokens * matrices + 2 * tokens * tokens * width
    pool_macs = 0 if has_class_token(config) else 2 * tokens * width
    return Counts(
        weights=plain + embeddings,
        without_embeddings=plain,
        macs=conv_macs + config.num_layers * block_macs + pool_macs + width * classes,
    )


def _convolutions(config: ModelConfig) -> tuple[int, int]:
    """Weights and multiply-adds of the tokenizer."""
    height, width = config.image_size
    outputs = [
        rows * columns for (rows, _), (columns, _) in zip(conv_sides(config, height), conv_sides(config, width), strict=True)
    ]
    if config.family != "cct":
        weights = 3 * config.patch_size**2 * config.embed_dim
        return weights + config.embed_dim, weights * outputs[0]
    planes = [3, *[CCT_PLANES] * (config.num_convs - 1), config.embed_dim]
    kernels = [config.kernel_size**2 * planes[i] * planes[i + 1] for i in range(config.num_convs)]
    return sum(kernels), sum(kernel * output for kernel, output in zip(kernels, outputs, strict=True))
