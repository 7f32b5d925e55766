"""Tables for a terminal: if it is too narrow, the least important columns are left out and named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    heading: its lines.
    drop: order in which columns are left out on a narrow terminal, the lowest first; None: never.
    folded: width to which the cells may be wrapped between words.
    """

    heading: tuple[str, ...]
    cells: Sequence[str]
    left: bool = False
    drop: int | None = None
    folded: int | None = None

    @property
    def name(self) -> str:
        return " ".join(filter(None, self.heading))

    @property
    def least_width(self) -> int:
        """Smallest width in characters."""
        from rich.cells import cell_len

        texts = [*self.heading, *self.cells]
        width = max(map(cell_len, texts))
        if self.folded is None or width <= self.folded:
            return width
        return max(self.folded, *(cell_len(word) for text in texts for word in text.split()))


def total_width(columns: Sequence[Column]) -> int:
    """Smallest width of a table in characters, with two spaces between columns."""
    return sum(column.least_width for column in columns) + 2 * (len(columns) - 1)


def fitting(columns: Sequence[Column], width: int | None) -> tuple[list[Column], list[str]]:
    """The columns that fit into `width` characters (None: any), and the names of those that are left out."""
    kept = list(columns)
    while width is not None and total_width(kept) > width:
        droppable = [column.drop for column in kept if column.drop is not None]
        if not droppable:
            break
        kept = [column for column in kept if column.drop != min(droppable)]
    return kept, [column.name for column in columns if column not in kept]


def narrow_note(left_out: Iterable[str], elsewhere: str) -> str:
    """The note that names the columns that were left out."""
    return f"columns left out on this narrow terminal: {', '.join(left_out)}; {elsewhere}"


def table_of(columns: Sequence[Column], *, bold: Sequence[bool] = ()) -> "Table":
    """A table without lines. bold: per row, whether it is bold; empty: none."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify = "left" if column.left else "right"
        table.add_column(Text("\n".join(column.heading)), justify=justify, no_wrap=column.folded is None, overflow="fold")  # type: ignore[arg-type]
    for i, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(Text, cells), style="bold" if bold and bold[i] else "")
    return table
