"""What came out of what: the runs in order, joined where one's manifest hash is another's input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsllm.io.manifest import InputRecord
from dsllm.report.folders import Run, is_input

INPUT = "input"
MIN_GROUP = 3
_DATA_KINDS = ("documents", "tokens", "tokenizer")
_ORDER = (
    INPUT,
    "dedup",
    "filter",
    "remix",
    "tokenize train",
    "tokenize encode",
    "fit-scaling plan",
    "pretrain",
    "fit-scaling fit",
    "sft",
    "dpo",
    "eval",
)


@dataclass(eq=False)
class Node:
    """A run, a ladder of runs that one fit was made from, or the raw documents of the first runs."""

    runs: list[Run]
    name: str
    parents: list["Node"] = field(default_factory=list)
    is_raw: bool = False  # not a run: what its run was given

    @property
    def stage(self) -> str:
        """The stage of its runs."""
        return INPUT if self.is_raw else self.runs[0].stage

    @property
    def is_group(self) -> bool:
        """Whether it stands for several runs."""
        return len(self.runs) > 1


def order_runs(runs: Sequence[Run]) -> list[Node]:
    """Make nodes with their parents, parents first, otherwise by stage and in the order given."""
    nodes = _group(runs)
    node_of = {id(run): node for node in nodes for run in node.runs}
    for node in nodes:
        for run in node.runs:
            for record in run.manifest.inputs:
                found = [node_of[id(other)] for other in runs if is_input(record, other)]
                fresh = [parent for parent in found if parent not in node.parents and parent is not node]
                node.parents += fresh[:1]
    return _sort([*_raw_inputs(nodes), *nodes])


def _raw_inputs(nodes: Sequence[Node]) -> list[Node]:
    """Make a node for the documents behind each data stage that no run on the page comes before."""
    made: dict[tuple[str, ...], Node] = {}
    for node in nodes:
        manifest = node.runs[0].manifest
        if node.parents or not manifest.inputs or manifest.content.get("kind") not in _DATA_KINDS:
            continue
        key = tuple(record.sha256 for record in manifest.inputs)
        if key not in made:
            made[key] = Node(node.runs[:1], name_inputs(manifest.inputs), is_raw=True)
        node.parents.append(made[key])
    return list(made.values())


def name_inputs(records: Sequence[InputRecord]) -> str:
    """Name raw inputs by the last part of the first one's path."""
    first = "standard input" if records[0].path == "-" else Path(records[0].path).name
    return first if len(records) == 1 else f"{first} and {len(records) - 1} more"


def _group(runs: Sequence[Run]) -> list[Node]:
    """Put the pre-training runs that a scaling fit was made from into one node."""
    fits = [run for run in runs if run.stage == "fit-scaling fit"]
    taken: dict[int, Node] = {}
    nodes = []
    for fit in fits:
        ladder = [
            run
            for run in runs
            if id(run) not in taken and any(is_input(record, run) for record in fit.manifest.inputs)
        ]
        if len(ladder) >= MIN_GROUP:
            node = Node(ladder, f"{len(ladder)} runs for {fit.name}")
            nodes.append(node)
            taken |= {id(run): node for run in ladder}
    nodes += [Node([run], run.name) for run in runs if id(run) not in taken]
    return nodes


def _sort(nodes: Sequence[Node]) -> list[Node]:
    """Parents first; among those that are ready, by stage, then as given."""
    left = sorted(nodes, key=_rank)
    done: list[Node] = []
    while left:
        ready = next(
            (node for node in left if all(parent in done for parent in node.parents)), left[0]
        )  # two equal manifests could make a ring: then as it comes
        left.remove(ready)
        done.append(ready)
    return done


def _rank(node: Node) -> int:
    return _ORDER.index(node.stage) if node.stage in _ORDER else len(_ORDER)


@dataclass(frozen=True)
class Rails:
    """A row's piece of the graph: which lanes pass, which end in its dot, and whether its own goes on."""

    lane: int
    passing: tuple[int, ...]
    joining: tuple[int, ...]  # lanes of its parents
    goes_on: bool


def lay_rails(nodes: Sequence[Node]) -> list[Rails]:
    """Give each node a lane, like the branches of a version history, oldest on top."""
    children = {id(node): [n for n in nodes if node in n.parents] for node in nodes}
    lanes: list[Node | None] = []
    rails = []
    for node in nodes:
        joining = tuple(lanes.index(parent) for parent in node.parents if parent in lanes)
        for index, parent in enumerate(lanes):
            if parent is not None and children[id(parent)] and children[id(parent)][-1] is node:
                lanes[index] = None  # its last child
        free = [index for index in joining if lanes[index] is None]
        lane = free[0] if free else next((i for i, one in enumerate(lanes) if one is None), len(lanes))
        if lane == len(lanes):
            lanes.append(None)
        passing = tuple(index for index, one in enumerate(lanes) if one is not None)
        goes_on = bool(children[id(node)])
        lanes[lane] = node if goes_on else None
        rails.append(Rails(lane, passing, joining, goes_on))
    return rails
