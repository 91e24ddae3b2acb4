"""The section of any stage that the page does not know: its counts, its metrics, its pictures."""

import base64
import json
from typing import Any

from markupsafe import Markup

from dsllm.report.blocks import Block, Figures, table
from dsllm.report.folders import Run
from dsllm.report.sections.training import all_metrics

MAX_ROWS = 40


def generic(run: Run) -> list[Block]:
    """Show what the manifest counts, whatever it is."""
    blocks: list[Block] = []
    plain = [[_words(name), _plain(value)] for name, value in run.counts.items() if not _is_table(value)]
    if plain:
        blocks.append(table(["count", "value"], plain[:MAX_ROWS]))
    for name, value in run.counts.items():
        if _is_table(value):
            columns = list(dict.fromkeys(key for row in value.values() for key in row))
            rows = [[key, *(_plain(row.get(column)) for column in columns)] for key, row in value.items()]
            blocks.append(table([_words(name), *map(_words, columns)], rows[:MAX_ROWS]))
    if run.metrics:
        blocks += all_metrics(run)
    return blocks + pictures(run)


def pictures(run: Run) -> list[Block]:
    """The pictures that a run wrote, inside the page."""
    found = [(_picture(name, kind, data), name) for name, kind, data in run.images()]
    return [Figures(found)] if found else []


def _picture(name: str, kind: str, data: bytes) -> Markup:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Markup('<img alt="{}" src="{}">').format(name, source)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(row, dict) for row in value.values())


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _words(name: str) -> str:
    return name.removeprefix("n_").replace("_", " ")
