"""`--explain`: what each test would remove of all documents, alone and together; documents at its border."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsllm.progress import Reporter
from dsllm.stages.filter.counts import source_names
from dsllm.stages.filter.table import Documents, Mask, Table, Trial

N_EXAMPLES = 5  # on either side of a bound
N_ROWS = 15
N_GROUPS = 6  # languages and sources in one table
EXCERPT_CHARS = 80
MANY = "(other)"
MAX_GROUPS = 200  # names of sources that are told apart
_LEAST_BOUND = 1e-9  # what distances are measured by where the bound is 0


@dataclass(frozen=True, order=True)
class Example:
    """A document near a bound: how far from it, relative to the bound, and where it is."""

    distance: float
    source: str
    line: int
    value: Any = field(compare=False)
    bound: Any = field(compare=False)
    language: str = field(compare=False)
    excerpt: str = field(compare=False)


@dataclass
class Explanation:
    """What is known of all tests together; that of batches is added up in their order.

    Every test looks at every document that is not exempt, whatever the tests before it have said. `counts`
    has, by test: documents and bytes that fail it, and those that fail no other one; `together` the documents
    that fail both of two tests; `groups` those that fail one, by ("language" or "source", name, test).
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    together: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, bool], list[Example]] = field(default_factory=dict)
    n_documents: int = 0

    def add(self, other: "Explanation") -> None:
        """Add what is known of another batch."""
        self.n_documents += other.n_documents
        for rule, counts in other.counts.items():
            self.counts.setdefault(rule, Counter()).update(counts)
        self.together.update(other.together)
        names = {key[:2] for key in self.groups}
        for (kind, name, rule), n in other.groups.items():
            is_known = (kind, name) in names or len(names) < MAX_GROUPS
            names |= {(kind, name)} if is_known else set()
            self.groups[kind, name if is_known else MANY, rule] += n
        for key, examples in other.examples.items():
            self.examples[key] = sorted([*self.examples.get(key, ()), *examples])[:N_EXAMPLES]

    def to_dict(self) -> dict[str, Any]:
        """Give all of it for the closing summary."""
        tests: dict[str, Any] = {rule: dict(counts) for rule, counts in self.counts.items()}
        for (kind, name, rule), n in sorted(self.groups.items()):
            tests[rule].setdefault(f"by_{kind}", {})[name] = n
        for (rule, is_removed), examples in self.examples.items():
            side = "removed" if is_removed else "kept"
            tests[rule].setdefault("at_the_border", {})[side] = [vars(example) for example in examples]
        together = [
            {"tests": list(pair), "n_documents": n} for pair, n in sorted(self.together.items(), key=_by_size)
        ]
        return {"n_documents": self.n_documents, "tests": tests, "together": together}

    def tell(self, reporter: Reporter) -> None:
        """Print tables, then examples."""
        rows = [
            (rule, n["n_documents"], _percent(n["n_documents"], self.n_documents), n["n_bytes"],
             n["n_alone"], n["n_alone_bytes"])
            for rule, n in self.counts.items()
        ]  # fmt: skip
        columns = ("test", "documents", "share", "bytes", "by it alone", "bytes by it alone")
        reporter.table("filter: what each test removes, whatever the others do", columns, rows)
        pairs = sorted(self.together.items(), key=_by_size)[:N_ROWS]
        reporter.table(
            "filter: removed by both", ("test", "and", "documents"), [(*pair, n) for pair, n in pairs]
        )
        for kind in ("language", "source"):
            self._tell_groups(kind, reporter)
        for rule in self.counts:
            found = [(True, each) for each in self.examples.get((rule, True), ())]
            found += [(False, each) for each in self.examples.get((rule, False), ())]
            examples = [
                ("removed" if is_removed else "kept", str(each.value), str(each.bound), each.language,
                 f"{each.source}, line {each.line:,}", each.excerpt)
                for is_removed, each in found
            ]  # fmt: skip
            if examples:
                columns = ("by this test", "value", "bound", "language", "where", "text")
                reporter.table(f"filter: at the border of {rule}", columns, examples)

    def _tell_groups(self, kind: str, reporter: Reporter) -> None:
        sizes: Counter[str] = Counter()
        for (group, name, _), n in self.groups.items():
            if group == kind:
                sizes[name] += n
        names = [name for name, _ in sizes.most_common(N_GROUPS)]
        rows = [(rule, *(self.groups[kind, name, rule] for name in names)) for rule in self.counts]
        if names:
            reporter.table(f"filter: removed, by {kind}", ("test", *names), rows)


def explain(table: Table) -> Explanation:
    """Sum up the tests of a batch that was looked at thoroughly."""
    found = Explanation(n_documents=len(table.documents))
    sizes = table.documents.sizes()
    broken: dict[str, Mask] = {}
    for trial in table.tests:  # a rule with two bounds is two trials
        broken[trial.rule] = broken.get(trial.rule, np.zeros(len(sizes), bool)) | trial.broken
    n_broken = np.sum(list(broken.values()), axis=0)
    sources = source_names(table)
    for rule, mask in broken.items():
        alone = mask & (n_broken == 1)
        found.counts[rule] = Counter(
            n_documents=int(mask.sum()),
            n_bytes=int(sizes[mask].sum()),
            n_alone=int(alone.sum()),
            n_alone_bytes=int(sizes[alone].sum()),
        )
        for place in np.flatnonzero(mask).tolist():
            found.groups["language", table.languages[table.language[place]], rule] += 1
            found.groups["source", sources[place], rule] += 1
    rules = list(broken)
    for at, rule in enumerate(rules):
        for other in rules[at + 1 :]:
            n_both = int((broken[rule] & broken[other]).sum())
            if n_both:
                found.together[rule, other] = n_both
    for trial in table.tests:
        _add_examples(found, table, trial)
    return found


def _add_examples(found: Explanation, table: Table, trial: Trial) -> None:
    """Pick the documents nearest to a bound that is a number."""
    if not isinstance(trial.bound, int | float):
        return
    values = np.array([_number(value) for value in trial.values], np.float64)
    distances = np.abs(values - trial.bound) / max(abs(trial.bound), _LEAST_BOUND)
    for is_removed in (True, False):
        places = np.flatnonzero((trial.broken == is_removed) & ~table.is_exempt & ~np.isnan(distances))
        nearest = places[np.argsort(distances[places], kind="stable")[:N_EXAMPLES]]
        examples = [_example(table, trial, int(place), float(distances[place])) for place in nearest]
        key = trial.rule, is_removed
        found.examples[key] = sorted([*found.examples.get(key, ()), *examples])[:N_EXAMPLES]


def _number(value: Any) -> float:
    """Take what a bound is for: the share of an item, where more is said of it."""
    number = value["share"] if isinstance(value, dict) else value
    return np.nan if number is None else float(number)


def _example(table: Table, trial: Trial, place: int, distance: float) -> Example:
    documents: Documents = table.documents
    text = " ".join(documents.texts.text(place)[: 4 * EXCERPT_CHARS].split())
    return Example(
        distance=round(distance, 6),
        source=documents.batch.source,
        line=documents.line_number(place),
        value=trial.value(place),
        bound=trial.bound,
        language=table.languages[table.language[place]],
        excerpt=text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…",
    )


def _by_size(item: tuple[Sequence[str], int]) -> tuple[int, Sequence[str]]:
    return -item[1], item[0]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
