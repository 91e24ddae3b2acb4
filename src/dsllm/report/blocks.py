"""What a section of the page is made of: the template knows how each kind looks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from dsllm.report.scales import format_number


@dataclass(frozen=True)
class Facts:
    """A few numbers, each large above what it is."""

    items: list[tuple[str, str]]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Cell:
    """A table's cell: what it says, whether it is a number, and a share of one to draw as a bar behind it."""

    text: str
    is_number: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; the last row may be a sum."""

    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    has_total: bool = False
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Figures:
    """Pictures side by side, each with its caption."""

    items: list[tuple[Markup, str]]
    kind: Literal["figures"] = "figures"


@dataclass(frozen=True)
class Beside:
    """A picture with its caption, and a table of the same things beside it."""

    picture: Markup
    caption: str
    table: Table
    kind: Literal["beside"] = "beside"


@dataclass(frozen=True)
class Note:
    """A sentence; a warning stands out."""

    text: str
    is_warning: bool = False
    kind: Literal["note"] = "note"


Block = Facts | Table | Figures | Beside | Note


@dataclass
class Section:
    """One run, or several that belong together."""

    anchor: str
    stage: str
    title: str
    blocks: list[Block]
    command: str = ""
    sources: list[tuple[str, str | None]] = field(default_factory=list)  # (name, anchor on this page)
    settings: list[tuple[str, str]] = field(default_factory=list)


def cell(value: Any, *, share: float | None = None, text: str | None = None) -> Cell:
    """Make a cell out of any value; numbers stand to the right."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text if text is not None else format_number(value), is_number or text is not None, share)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> Table:
    """Make a table out of plain values and cells."""
    made = [[value if isinstance(value, Cell) else cell(value) for value in row] for row in rows]
    return Table(list(columns), made, **more)
