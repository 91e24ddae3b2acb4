"""What a run says while it works, all of it on stderr.

On a terminal a bar with rate and time left; in a log a line a minute; with `--quiet` nothing.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LOG_EVERY_S = 60.0
LOG_WIDTH = 140  # characters of a table in a log


class Bar(Protocol):
    """Something that is told of progress."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """Say that `n` more units are done; `note` is shown beside them."""


class Reporter:
    """Says things on stderr, in the way that whoever reads it wants."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self._console: Console | None = None

    @property
    def console(self) -> "Console":
        """The console on stderr, made at first use."""
        if self._console is None:
            from rich.console import Console

            width = None if sys.stderr.isatty() else LOG_WIDTH
            self._console = Console(stderr=True, highlight=False, width=width)
        return self._console

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.is_quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def say_set_aside(self, n_lines: int) -> None:
        """Say how many lines were no documents."""
        were = (
            "1 line was no document and was"
            if n_lines == 1
            else f"{n_lines:,} lines were no documents and were"
        )
        self.say(f"dsllm: {were} set aside")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; numbers are set to the right, with thousands separated."""
        if self.is_quiet:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            are_numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
            table.add_column(column, justify="right" if are_numbers else "left")
        for row in rows:
            table.add_row(*(Text(format_cell(value)) for value in row))
        self.console.print(table)

    @contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator[Bar]:
        """Report progress towards `total` units (None: unknown) while the block runs."""
        if self.is_quiet:
            yield _SilentBar()
        elif self.console.is_terminal:
            with _make_progress(self.console, unit) as progress:
                yield _TerminalBar(progress, progress.add_task(label, total=total, amount="", note=""), unit)
        else:
            yield _LogBar(self, label, total, unit)


def format_cell(value: object) -> str:
    """Write a table's cell: 1,234,567 and 0.1235 and words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    )


def format_amount(n: float, unit: str) -> str:
    """Write an amount with its unit: 12.3 MB, 1,234 documents."""
    if unit != "bytes":
        return f"{n:,.0f} {unit}" if n >= 10 or n == int(n) else f"{n:.2g} {unit}"
    for name in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.3g} {name}"
        n /= 1000
    return f"{n:,.3g} TB"


def format_duration(seconds: float) -> str:
    """Write a time: 42 s, 3:05 min, 1:02:03 h, 12.3 days."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    if minutes >= 48 * 60:
        return f"{minutes / 60 / 24:.1f} days"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


class _SilentBar:
    def advance(self, n: float = 1, note: str = "") -> None:
        pass


class _TerminalBar:
    def __init__(self, progress: "Progress", task: "TaskID", unit: str) -> None:
        self._progress, self._task, self._unit = progress, task, unit

    def advance(self, n: float = 1, note: str = "") -> None:
        self._progress.advance(self._task, n)
        state = self._progress.tasks[0]
        rate = f", {format_amount(state.speed, self._unit)}/s" if state.speed else ""
        self._progress.update(
            self._task,
            amount=format_amount(state.completed, self._unit) + rate,
            note=note or state.fields["note"],
        )


class _LogBar:
    def __init__(self, reporter: Reporter, label: str, total: float | None, unit: str) -> None:
        self._reporter, self._label, self._total, self._unit = reporter, label, total, unit
        self._done = 0.0
        self._started_s = self._reported_s = time.monotonic()

    def advance(self, n: float = 1, note: str = "") -> None:
        self._done += n
        now_s = time.monotonic()
        if now_s - self._reported_s < LOG_EVERY_S:
            return
        self._reported_s = now_s
        rate = self._done / (now_s - self._started_s)
        text = f"{self._label}: {format_amount(self._done, self._unit)}"
        if self._total:
            left_s = (self._total - self._done) / rate if rate else 0.0
            text += f" of {format_amount(self._total, self._unit)}, {format_duration(left_s)} left"
        text += f", {format_amount(rate, self._unit)}/s"
        self._reporter.say(f"{text}, {note}" if note else text)


def _make_progress(console: "Console", unit: str) -> "Progress":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
