"""`dsllm report`: folders in, one HTML page out that needs nothing besides itself."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsllm.config import RunOptions
from dsllm.errors import OutputError
from dsllm.io.atomic import write_atomic
from dsllm.progress import Reporter
from dsllm.report.config import ReportConfig
from dsllm.report.folders import Run, find_runs
from dsllm.report.page import Page, build_page, rows_as_text
from dsllm.report.pipeline import order_runs


def run(
    config: ReportConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the page; `-` is standard output. An existing page is replaced.

    Args:
        config: the heading.
        inputs: folders that dsllm wrote, or folders of such.
        output: the HTML file.
        options: not used: the page is made at once.
        reporter: shows the pipeline as a table.

    Raises:
        InputError: a folder that is missing, unfinished, or without a finished run.
        OutputError: the file cannot be written.
    """
    runs = find_runs(inputs)
    page = build_page(runs, config.title)
    data = render(page).encode()
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        if Path(output).is_dir():
            raise OutputError(f"{output}: is a folder", hint=f"try -o {Path(output) / 'report.html'}")
        write_atomic(output, data)
    _show(runs, reporter)
    return {"n_runs": len(runs), "n_sections": len(page.sections), "n_bytes": len(data), "output": output}


def plan(
    config: ReportConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say which folders the page would show; write nothing."""
    runs = find_runs(inputs)
    _show(runs, reporter)
    return {"n_runs": len(runs), "runs": [f"{run.stage}: {run.name}" for run in runs], "output": output}


def render(page: Page) -> str:
    """Make the HTML; everything that is not markup of the page's own is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dsllm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)


def _show(runs: Sequence[Run], reporter: Reporter) -> None:
    columns = ["stage", "folder", "documents", "text", "tokens", "outcome"]
    reporter.table("The pipeline", columns, rows_as_text(order_runs(runs)))
