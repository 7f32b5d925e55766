"""A summary, and its tables: of one model or of several side by side, with rich or as plain text."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cctkit.columns import Column, fitting, narrow_note, table_of
from cctkit.config.size import Size
from cctkit.summary.memory import Memory
from cctkit.summary.walk import Layer
from cctkit.text import safe_text

MB = 2**20  # as torchsummary's
_LAYERS_WIDTH = 72  # of one model's table of layers
_TITLES_WIDTH = 24  # that the titles of the totals are wrapped into at the narrowest
_FINDING = ("cct_6_3x1", "cct_6_3x2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Torchsummary:
    """The block under torchsummary's table, for one image, sizes in MB of 2^20 bytes, all numbers taken as float32.

    forward_backward_pass_mb: twice the outputs of all rows, those of modules that contain others once more.
    """

    total_params: int
    trainable_params: int
    non_trainable_params: int
    input_mb: float
    forward_backward_pass_mb: float
    params_mb: float
    estimated_total_mb: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Summary:
    """What a model is and needs; printed, its table.

    params: number of parameters; a shared parameter counts once.
    bare: name and size of the parameters that belong to no row of `layers`.
    torchsummary: the block that torchsummary prints; None if torchsummary raises.
    containers: number of rows that contain other rows.
    containers_mb: outputs of those rows, which the block counts twice.
    macs: multiply-adds of one image, attention included.
    macs_attention: multiply-adds of products of two activations, part of `macs`.
    memory: of one training step; None if it was not asked for.
    fitting_batch: the largest batch size that fits, if it was asked for.
    notes: the assumptions, in words.
    """

    model: str
    image_size: Size
    num_classes: int
    batch_size: int
    params: int
    trainable_params: int
    layers: tuple[Layer, ...]
    bare: tuple[tuple[str, int], ...]
    torchsummary: Torchsummary | None
    containers: int
    containers_mb: float
    macs: int
    macs_attention: int
    memory: Memory | None
    fitting_batch: int | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return plain_text(self)

    __repr__ = __str__

    def __rich__(self) -> RenderableType:
        return renderable(self)


def plain_text(summary: Summary) -> str:
    """The summary as text without colours, lines of any length."""
    console = Console(width=200, color_system=None, force_terminal=False, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable(summary))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def renderable(*summaries: Summary, width: int | None = None) -> RenderableType:
    """Layers and totals of the models, side by side if `width` characters (None: any) suffice."""
    if width is None or width >= _LAYERS_WIDTH * len(summaries):
        layers: list[RenderableType] = [layer_table(*summaries)]
    else:
        layers = [item for each in summaries for item in (layer_table(each), Text())]
    notes = dict.fromkeys(note for summary in summaries for note in summary.notes)
    totals = [part for some in _side_by_side(summaries, width) for part in (Text(), totals_table(*some))]
    return Group(*layers, *totals, *map(Text, notes))


def _side_by_side(summaries: Sequence[Summary], width: int | None) -> list[Sequence[Summary]]:
    """The summaries in as few groups as have room for their totals beside each other."""
    widest = max(len(text) for each in summaries for text in (safe_text(each.model), f"{each.macs:,}"))
    number = len(summaries) if width is None else max(1, (width - _TITLES_WIDTH) // (widest + 2))
    return [summaries[i : i + number] for i in range(0, len(summaries), number)]


def layer_table(*summaries: Summary) -> Table:
    """One row per call; the rows of several models are side by side."""
    table = _table()
    for summary in summaries:
        table.add_column(safe_text(summary.model), no_wrap=True)
        table.add_column("output shape")
        table.add_column("params", justify="right", no_wrap=True)
        table.add_column("trainable", no_wrap=True)
    marks = {True: "yes", False: "no", None: ""}
    for row in itertools.zip_longest(*(summary.layers for summary in summaries)):
        cells: list[str] = []
        for layer in row:
            if layer is None:
                cells += [""] * 4
            else:
                name = "  " * (layer.depth - 1) + safe_text(layer.layer)
                cells += [name, str(layer.output_shape), f"{layer.params:,}", marks[layer.trainable]]
        table.add_row(*map(Text, cells))
    return table


def totals_table(*summaries: Summary) -> Table:
    """The report's block, what it leaves out, and the memory of a training step; one column per model."""
    table = _table()
    table.add_column("as torchsummary counts, one image")
    for summary in summaries:
        table.add_column(safe_text(summary.model), justify="right", no_wrap=True)

    def section(title: str) -> None:
        table.add_row()
        table.add_row(Text(title, style="bold"))

    def line(title: str, cells: Sequence[str]) -> None:
        table.add_row(Text(title), *map(Text, cells))

    for title, attribute, form in _BLOCK:
        line(title, [_of_block(summary.torchsummary, attribute, form) for summary in summaries])
    section("what that leaves out")
    for name in dict.fromkeys(_bare_name(name) for summary in summaries for name, _ in summary.bare):
        counts = [sum(count for bare, count in summary.bare if _bare_name(bare) == name) for summary in summaries]
        line(f"params of no layer: {safe_text(name)}", [f"{count:,}" for count in counts])
    line("all params", [f"{summary.params:,}" for summary in summaries])
    line("of these trainable", [f"{summary.trainable_params:,}" for summary in summaries])
    line("modules whose outputs it counts again", [f"{summary.containers}" for summary in summaries])
    line("their outputs (MB)", [f"{summary.containers_mb:,.2f}" for summary in summaries])
    line("MACs", [f"{summary.macs:,}" for summary in summaries])
    line("of these products of activations (attention)", [f"{summary.macs_attention:,}" for summary in summaries])
    line("MACs without them", [f"{summary.macs - summary.macs_attention:,}" for summary in summaries])
    if any(summary.memory for summary in summaries):
        section(memory_title(summaries))
        for title, attribute in _MEMORY:
            line(title, [_of_memory(summary.memory, attribute) for summary in summaries])
    if any(summary.fitting_batch is not None for summary in summaries):
        line("largest batch that fits", [_fitting(summary) for summary in summaries])
    return table


def catalog_table(summaries: Sequence[Summary], *, width: int | None = None) -> RenderableType:
    """One row per model, and the report's finding if its two models are among them.

    width: in characters; columns that do not fit are left out (None: any width).
    """
    with_memory = any(summary.memory for summary in summaries)
    with_fit = any(summary.fitting_batch is not None for summary in summaries)

    def column(heading: str, cell: Callable[[Summary], str], *, drop: int | None = None, left: bool = False) -> Column:
        return Column(heading=(heading,), cells=[cell(summary) for summary in summaries], drop=drop, left=left)

    def block(heading: str, name: str, form: str, drop: int) -> Column:
        return column(heading, lambda summary: _of_block(summary.torchsummary, name, form), drop=drop)

    columns = [
        column("model", lambda summary: safe_text(summary.model), left=True),
        column("params", lambda summary: f"{summary.params:,}"),
        block("torchsummary's", "total_params", ",", 4),
        column("MACs G", lambda summary: f"{summary.macs / 1e9:.3f}", drop=5),
        block("fwd/bwd MB", "forward_backward_pass_mb", ",.2f", 2),
        block("params MB", "params_mb", ",.2f", 1),
        block("total MB", "estimated_total_mb", ",.2f", 3),
    ]
    if with_memory:
        columns.append(column("step's peak MB", lambda summary: _of_memory(summary.memory, "peak_bytes")))
    if with_fit:
        columns.append(column("fitting batch", _fitting))
    kept, left_out = fitting(columns, width)
    notes = [*_finding(summaries), *([memory_title(summaries)] if with_memory else [])]
    notes += [narrow_note(left_out, "--json has them")] if left_out else []
    return Group(table_of(kept), Text(), *map(Text, notes))


def memory_title(summaries: Sequence[Summary]) -> str:
    """The title of the memory figures."""
    memory, *others = [summary.memory for summary in summaries if summary.memory]
    unmeasured = "" if memory.device == "cpu" else ", unmeasured"
    attention = " or ".join(dict.fromkeys(each.attention for each in (memory, *others)))  # a model's dropout decides too
    return (
        f"a training step's memory, predicted{unmeasured}: batch {memory.batch_size}, {memory.dtype}, {memory.optimizer}, "
        f"{attention} attention on {memory.device} (MB)"
    )


_BLOCK = (
    ("Total params", "total_params", ","),
    ("Trainable params", "trainable_params", ","),
    ("Non-trainable params", "non_trainable_params", ","),
    ("Input size (MB)", "input_mb", ".2f"),
    ("Forward/backward pass size (MB)", "forward_backward_pass_mb", ",.2f"),
    ("Params size (MB)", "params_mb", ",.2f"),
    ("Estimated total size (MB)", "estimated_total_mb", ",.2f"),
)
_MEMORY = (
    ("peak", "peak_bytes"),
    ("weights and buffers", "weights_bytes"),
    ("gradients", "gradients_bytes"),
    ("optimizer", "optimizer_bytes"),
    ("activations after the forward pass", "activations_bytes"),
)


def _finding(summaries: Sequence[Summary]) -> list[str]:
    """The report's: fewer parameters, more memory."""
    by_name = {summary.model: summary for summary in summaries}
    if not all(name in by_name for name in _FINDING):
        return []
    few, many = (by_name[name] for name in _FINDING)
    if few.torchsummary is None or many.torchsummary is None:
        return []
    sizes = [f"{block.forward_backward_pass_mb:.2f}" for block in (few.torchsummary, many.torchsummary)]
    return [
        f"{few.model} has {many.params - few.params:,} parameters fewer than {many.model}, and yet its activations take "
        f"{sizes[0]} MB against {sizes[1]}: one convolution less leaves four times the tokens."
    ]


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _of_block(block: Torchsummary | None, name: str, form: str) -> str:
    value: Any = "raises" if block is None else getattr(block, name)
    return value if isinstance(value, str) else format(value, form)


def _of_memory(memory: Memory | None, name: str) -> str:
    return "" if memory is None else f"{getattr(memory, name) / MB:,.1f}"


def _fitting(summary: Summary) -> str:
    return "" if summary.fitting_batch is None else f"{summary.fitting_batch:,}"


def _bare_name(name: str) -> str:
    """A parameter's name without its module's: blocks hold the same ones."""
    return name.rpartition(".")[2]
