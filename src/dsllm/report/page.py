"""The page: the pipeline as a table with rails, then a section for each run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from dsllm.report.blocks import Block, Section
from dsllm.report.folders import Run, is_input
from dsllm.report.outcomes import Outcome, glance, node_outcome
from dsllm.report.pipeline import Node, Rails, lay_rails, order_runs
from dsllm.report.scales import format_number
from dsllm.report.sections import data, scaling, training
from dsllm.report.sections.generic import generic
from dsllm.report.sections.scores import evaluations

LANE_WIDTH = 18
_BUILDERS: dict[str, Callable[[Run], list[Block]]] = {
    "dedup": data.dedup,
    "filter": data.filter_,
    "remix": data.remix,
    "tokenize train": data.tokenize_train,
    "tokenize encode": data.tokenize_encode,
    "pretrain": training.pretrain,
    "sft": training.sft,
    "dpo": training.dpo,
    "fit-scaling fit": scaling.fits,
    "fit-scaling plan": scaling.plan,
}
_FAMILIES = {"input": "raw", "pretrain": "model", "sft": "model", "dpo": "model", "eval": "score"}


@dataclass(frozen=True)
class Row:
    """A row of the pipeline."""

    rails: Markup
    dot: int  # from the left, in pixels
    family: str
    stage: str
    name: str
    anchor: str | None  # None: it has no section
    outcome: Outcome


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    version: str
    glance: list[tuple[str, str]]
    rows: list[Row]
    rail_width: int
    sections: list[Section]


def build_page(runs: Sequence[Run], title: str) -> Page:
    """Lay out the runs; the same folders give the same page."""
    nodes = order_runs(runs)
    evals = [node for node in nodes if node.stage == "eval"]
    anchors = _anchors(nodes)
    rails = lay_rails(nodes)
    n_lanes = 1 + max(max((one.lane, *one.passing, *one.joining)) for one in rails)
    rows = [
        Row(
            rails=_draw_rails(one, n_lanes),
            dot=one.lane * LANE_WIDTH + LANE_WIDTH // 2,
            family=_family(node.stage),
            stage=node.stage,
            name=node.name,
            anchor=anchors[id(node)],
            outcome=node_outcome(node),
        )
        for node, one in zip(nodes, rails, strict=True)
    ]
    shown = [node for node in nodes if not (node.is_raw or node.runs[0].is_side or node in evals)]
    sections = [_section(node, anchors) for node in shown]
    if evals:
        sections.append(_evaluation(evals, runs, anchors))
    versions = sorted({run.manifest.version for run in runs})
    return Page(title, ", ".join(versions), glance(nodes), rows, n_lanes * LANE_WIDTH, sections)


def _anchors(nodes: Sequence[Node]) -> dict[int, str | None]:
    """Where each node's section is: raw inputs have none, evaluations share one, so do the two of a stage."""
    anchors: dict[int, str | None] = {}
    main = {}
    for index, node in enumerate(nodes, start=1):
        manifest = node.runs[0].manifest
        key = manifest.stage, str(manifest.inputs), str(manifest.config)
        if node.is_raw:
            anchors[id(node)] = None
        elif node.stage == "eval":
            anchors[id(node)] = "evaluation"
        elif not node.runs[0].is_side:
            anchors[id(node)] = main[key] = f"run-{index}"
    return {id(node): anchors.get(id(node), _main_of(node, main)) for node in nodes}


def _main_of(node: Node, main: dict[tuple[str, str, str], str]) -> str | None:
    manifest = node.runs[0].manifest
    return main.get((manifest.stage, str(manifest.inputs), str(manifest.config)))


def rows_as_text(nodes: Sequence[Node]) -> list[list[str]]:
    """The pipeline's table for the terminal."""
    rows = []
    for node in nodes:
        outcome = node_outcome(node)
        rows.append([node.stage, node.name, outcome.documents, outcome.text, outcome.tokens, outcome.note])
    return rows


def _family(stage: str) -> str:
    return _FAMILIES.get(stage, "scaling" if stage.startswith("fit-scaling") else "data")


def _section(node: Node, anchors: dict[int, str | None]) -> Section:
    run = node.runs[0]
    blocks = training.ladder(node.runs) if node.is_group else _BUILDERS.get(run.stage, generic)(run)
    return Section(
        anchor=anchors[id(node)] or "",
        stage=node.stage,
        title=node.name,
        blocks=blocks,
        command="" if node.is_group else run.manifest.command,
        sources=_sources(node, anchors),
        settings=[] if node.is_group else _settings(run),
    )


def _evaluation(evals: Sequence[Node], runs: Sequence[Run], anchors: dict[int, str | None]) -> Section:
    first = evals[0].runs[0]
    parents = {id(parent): parent for node in evals for parent in node.parents}
    return Section(
        anchor="evaluation",
        stage="eval",
        title="Scores",
        blocks=evaluations([node.runs[0] for node in evals], runs),
        command=first.manifest.command if len(evals) == 1 else "",
        sources=[(parent.name, anchors[id(parent)]) for parent in parents.values()],
        settings=_settings(first) if len(evals) == 1 else [],
    )


def _sources(node: Node, anchors: dict[int, str | None]) -> list[tuple[str, str | None]]:
    """What the run was made from: runs on this page with a link, others by the last part of their path."""
    found: list[tuple[str, str | None]] = [
        (parent.name, anchors[id(parent)]) for parent in node.parents if not parent.is_raw
    ]
    known = [run for parent in node.parents if not parent.is_raw for run in parent.runs]
    for record in node.runs[0].manifest.inputs:
        if not any(is_input(record, run) for run in known):
            name = "standard input" if record.path == "-" else Path(record.path).name
            found.append((f"{name} ({record.sha256[:8]})" if record.sha256 else name, None))
    return found


def _settings(run: Run) -> list[tuple[str, str]]:
    said = []
    for name, value in run.manifest.config.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else format_number(value)
        said.append((name, text))
    return said


def _draw_rails(rails: Rails, n_lanes: int) -> Markup:
    """A row's lines: straight where a lane passes, bent from each parent's lane into the dot."""

    def at(lane: int) -> float:
        return lane * LANE_WIDTH + LANE_WIDTH / 2

    paths = [f"M{at(lane):g} 0V100" for lane in rails.passing]
    paths += [
        f"M{at(lane):g} 0C{at(lane):g} 30 {at(rails.lane):g} 20 {at(rails.lane):g} 50"
        for lane in rails.joining
    ]
    if rails.goes_on:
        paths.append(f"M{at(rails.lane):g} 50V100")
    return Markup(
        '<svg class="rails" viewBox="0 0 {:g} 100" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="{}"/></svg>'
    ).format(n_lanes * LANE_WIDTH, " ".join(paths))
