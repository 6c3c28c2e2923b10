"""A table in rows: columns as wide as their cells need, narrower ones where there is no room.

Where the columns would become too narrow to read, each row of the table is shown as a list of its cells instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style

from llmrun.cli.chat.screen.inline import inline_runs
from llmrun.cli.chat.screen.leaves import Leaf
from llmrun.cli.chat.screen.rows import PLAIN, Row, Run, joined, row_cells, wrap

__all__ = ["TableShape", "choose_shape", "render_header", "render_row", "widen_shape"]

_HEADER = Style(bold=True)
_LINE = Style(dim=True)
_LEAST_CELLS = 5
_MORE_CELLS = 8
_BETWEEN: Run = (" │ ", _LINE)


@dataclass(frozen=True, slots=True)
class TableShape:
    """How wide the columns are; none: the rows are lists."""

    widths: tuple[int, ...]


def choose_shape(leaf: Leaf, columns: int) -> TableShape:
    """Return widths for the columns of a table."""
    natural = [
        max((_natural_cells(row[place]) for row in leaf.cells if place < len(row)), default=1)
        for place in range(len(leaf.aligns))
    ]
    room = columns - row_cells(leaf.indent) - 3 * (len(natural) - 1)
    if sum(min(width, _LEAST_CELLS) for width in natural) > room:
        return TableShape(())
    widths = list(natural)
    while sum(widths) > room:  # the widest ones give way, down to the next widest
        widest = max(widths)
        at_most = [place for place, width in enumerate(widths) if width == widest]
        next_widest = max((width for width in widths if width < widest), default=_LEAST_CELLS)
        excess = sum(widths) - room
        cut = max(min(widest - max(next_widest, 1), -(-excess // len(at_most))), 1)
        for place in at_most:
            widths[place] = max(widest - cut, 1)
    return TableShape(tuple(widths))


def widen_shape(shape: TableShape, leaf: Leaf, columns: int) -> TableShape:
    """Return wider columns where there is room: the rows to come may need them."""
    if not shape.widths:
        return shape
    free = columns - row_cells(leaf.indent) - 3 * (len(shape.widths) - 1) - sum(shape.widths)
    each = max(min(free // len(shape.widths), _MORE_CELLS), 0)
    *widths, last = (width + each for width in shape.widths)
    return TableShape((*widths, last + max(free - each * len(shape.widths), 0)))


def render_header(leaf: Leaf, shape: TableShape) -> list[Row]:
    """Return the rows of the header, with the line below it."""
    if not shape.widths:
        return []
    line = "─┼─".join("─" * width for width in shape.widths)
    return [*_cells(leaf, 0, shape, _HEADER), joined((*leaf.indent, (line, _LINE)))]


def render_row(leaf: Leaf, number: int, shape: TableShape, columns: int) -> list[Row]:
    """Return the rows that one row of the table takes."""
    if shape.widths:
        return _cells(leaf, number, shape, PLAIN)
    rows: list[Row] = [()] if number > 1 else []
    for name, value in zip(leaf.cells[0], leaf.cells[number], strict=False):
        runs = (*inline_runs(name, _HEADER, is_complete=True).runs, (": ", _HEADER))
        runs = (*runs, *inline_runs(value, is_complete=True).runs)
        rows += wrap(runs, columns, leaf.indent, (*leaf.indent, ("  ", PLAIN)))
    return rows


def _natural_cells(source: str) -> int:
    runs = inline_runs(source, is_complete=True).runs
    return max((row_cells(row) for row in wrap(runs, 10_000)), default=1) or 1


def _cells(leaf: Leaf, number: int, shape: TableShape, base: Style) -> list[Row]:
    cells = [
        wrap(inline_runs(source, base, is_complete=True).runs, width)
        for source, width in zip(leaf.cells[number], shape.widths, strict=False)
    ]
    rows = []
    for line in range(max(map(len, cells), default=0)):
        row: list[Run] = [*(leaf.lead if number == 0 and line == 0 else leaf.indent)]
        for place, (cell, width) in enumerate(zip(cells, shape.widths, strict=False)):
            is_last = place == len(shape.widths) - 1
            row += [_BETWEEN] if place else []
            row += _aligned(cell[line] if line < len(cell) else (), width, leaf.aligns[place], is_last=is_last)
        rows.append(joined(row))
    return rows


def _aligned(cell: Sequence[Run], width: int, align: str, *, is_last: bool) -> list[Run]:
    free = max(width - row_cells(cell), 0)
    left = free if align == "right" else free // 2 if align == "center" else 0
    right = 0 if is_last else free - left
    return [(" " * left, PLAIN), *cell, (" " * right, PLAIN)]
