import io
import time

import pytest
from rich.console import Console

from dsllm import progress
from dsllm.progress import Reporter, format_amount, format_cell, format_duration


@pytest.fixture
def heard(monkeypatch):
    """A reporter whose console writes into a buffer that is no terminal."""
    reporter = Reporter()
    buffer = io.StringIO()
    reporter._console = Console(file=buffer, width=100, highlight=False)
    return reporter, buffer


def test_amounts_have_units_a_reader_knows():
    cases = [(12_345_678, "bytes"), (999, "bytes"), (1234, "documents"), (0.25, "steps"), (3, "steps")]
    assert [format_amount(n, unit) for n, unit in cases] == [
        "12.3 MB", "999 B", "1,234 documents", "0.25 steps", "3 steps",
    ]  # fmt: skip


def test_durations_have_units_a_reader_knows():
    seconds = [0, 42, 185, 3723, 3 * 86400]
    assert [format_duration(s) for s in seconds] == ["0 s", "42 s", "3:05 min", "1:02:03 h", "3.0 days"]


def test_cells_of_tables_are_numbers_or_words():
    values = [1234567, 0.123456, 123456.7, None, "word", True]
    assert [format_cell(value) for value in values] == ["1,234,567", "0.1235", "123,457", "", "word", "True"]


@pytest.mark.parametrize(
    ("n_lines", "said"),
    [
        (1, "1 line was no document and was set aside"),
        (1200, "1,200 lines were no documents and were set aside"),
    ],
)
def test_lines_set_aside_are_counted_in_words(heard, n_lines, said):
    reporter, buffer = heard
    reporter.say_set_aside(n_lines)
    assert buffer.getvalue() == f"dsllm: {said}\n"


def test_a_log_gets_a_line_a_minute_with_rate_and_time_left(heard, monkeypatch):
    reporter, buffer = heard
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with reporter.bar("dedup", total=1000, unit="documents") as bar:
        for _ in range(4):
            now_s[0] += 25
            bar.advance(100, note="loss 3")
    # after 75 s 300 documents are done: 4 a second, so the other 700 take 175 s; the next line is due at 135
    line = "dedup: 300 documents of 1,000 documents, 2:55 min left, 4 documents/s, loss 3"
    assert buffer.getvalue() == line + "\n"


def test_quiet_is_silent(capfd):
    reporter = Reporter(is_quiet=True)
    reporter.say("a")
    reporter.table("b", ["c"], [[1]])
    with reporter.bar("d", total=1, unit="bytes") as bar:
        bar.advance()
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    reporter = Reporter()
    buffer = io.StringIO()
    reporter._console = Console(file=buffer, force_terminal=True, width=100)
    with reporter.bar("dedup", total=10, unit="bytes") as bar:
        bar.advance(5, note="half")
    assert "dedup" in buffer.getvalue()
    assert progress.LOG_EVERY_S == 60


def test_tables_set_numbers_to_the_right(heard):
    reporter, buffer = heard
    reporter.table("Title", ["name", "n"], [["a", 5], ["b", 12345]])
    lines = [line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()]
    assert lines[0] == "Title"
    assert lines[-2].endswith("     5")
    assert lines[-1].endswith("12,345")
