"""Parameters and multiply-adds of a model in closed form, without torch."""

from dataclasses import dataclass

from cctkit.config.model import ModelConfig
from cctkit.config.size import Size

CCT_PLANES = 64
"""Channels between the tokenizer's convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of a model.

    weights: number of parameters.
    without_embeddings: the same without positional embedding and class token.
    macs: multiply-adds of one image, attention included.
    """

    weights: int
    without_embeddings: int
    macs: int


def conv_planes(config: ModelConfig) -> list[int]:
    """Channels before the first and after each of the tokenizer's convolutions (CCT)."""
    return [3, *[CCT_PLANES] * (config.num_convs - 1), config.embed_dim]


def gated_hidden(config: ModelConfig, width: int) -> int:
    """Hidden width of a gated MLP (TCT) on tokens of this width."""
    return round(width * config.mlp_ratio)


def conv_sides(config: ModelConfig, pixels: int) -> list[tuple[int, int]]:
    """(side after the convolution, side after its pooling) along an axis of `pixels`, per convolution (not TCT)."""
    if config.family != "cct":
        return [(pixels // config.patch_size,) * 2]
    kernel, sides = config.kernel_size, []
    for _ in range(config.num_convs):
        conv = (pixels + 2 * max(1, kernel // 2) - kernel) // max(1, kernel // 2 - 1) + 1
        pixels = (conv - 1) // 2 + 1  # the 3 x 3 max-pool of stride 2
        sides.append((conv, pixels))
    return sides


def stage_sizes(config: ModelConfig) -> tuple[Size, Size, Size]:
    """Rows and columns in TCT's three stages, of which the last two begin with a 3 x 3 convolution of stride 2."""
    height, width = config.image_size
    half = (height + 1) // 2, (width + 1) // 2
    return (height, width), half, ((half[0] + 1) // 2, (half[1] + 1) // 2)


def grid_size(config: ModelConfig) -> Size:
    """Rows and columns of the tokens of one image."""
    if config.family == "tct":
        return stage_sizes(config)[-1]
    height, width = config.image_size
    return conv_sides(config, height)[-1][1], conv_sides(config, width)[-1][1]


def has_class_token(config: ModelConfig) -> bool:
    """Whether a class token is classified; CCT and CVT pool the sequence in its place."""
    return config.family in ("vit_lite", "vit")


def count(config: ModelConfig) -> Counts:
    """The counts of the model that `models.build` builds from `config`."""
    if config.family == "tct":
        return _count_tct(config)
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


def _count_tct(config: ModelConfig) -> Counts:
    """The counts of a TCT: matrices once, norms and layer scales of each use, products of every use."""
    first, narrow, width = config.stem_dim, config.conv_dim, config.embed_dim
    inner, repeats = config.attention_dim or width, config.repeats
    pixels, half, tokens = (rows * columns for rows, columns in stage_sizes(config))
    conv_mlp, conv_biases = _gated_mlp(config, narrow)
    mlp, biases = _gated_mlp(config, width)
    attention = 4 * width * inner
    stem, stem_block, down = 27 * first, 18 * first * first, 9 * first * narrow
    conv_block = conv_mlp + conv_biases + 3 * narrow * repeats  # a norm and a layer scale per use
    block = attention + width + mlp + biases + 6 * width * repeats
    shrink, widen, head = 9 * narrow, narrow * width, width * config.num_classes
    plain = stem + config.num_stem_blocks * (stem_block + 5 * first) + 2 * first + down + narrow
    plain += config.num_conv_blocks * conv_block + 2 * narrow + shrink + narrow + widen + width
    plain += config.num_layers * block + 2 * width + width + 1 + head + config.num_classes
    embeddings = (config.positional_embedding != "none") * tokens * width
    macs = pixels * (stem + config.num_stem_blocks * stem_block) + half * (down + repeats * config.num_conv_blocks * conv_mlp)
    macs += tokens * (shrink + widen) + 2 * tokens * width + head
    macs += repeats * config.num_layers * tokens * (attention + mlp + 2 * tokens * inner)
    return Counts(weights=plain + embeddings, without_embeddings=plain, macs=macs)


def _gated_mlp(config: ModelConfig, width: int) -> tuple[int, int]:
    """Weights of a gated MLP that multiply each token, and its biases."""
    hidden = gated_hidden(config, width)
    return (3 * width + 9) * hidden, 3 * hidden + width


def _convolutions(config: ModelConfig) -> tuple[int, int]:
    """Weights and multiply-adds of the tokenizer."""
    height, width = config.image_size
    outputs = [
        rows * columns for (rows, _), (columns, _) in zip(conv_sides(config, height), conv_sides(config, width), strict=True)
    ]
    if config.family != "cct":
        weights = 3 * config.patch_size**2 * config.embed_dim
        return weights + config.embed_dim, weights * outputs[0]
    planes = conv_planes(config)
    kernels = [config.kernel_size**2 * planes[i] * planes[i + 1] for i in range(config.num_convs)]
    return sum(kernels), sum(kernel * output for kernel, output in zip(kernels, outputs, strict=True))
