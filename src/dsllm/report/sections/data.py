"""Sections of the data stages: what was read, what was taken out and why, what is left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsllm.report.blocks import Beside, Block, Facts, Note, Table, cell, table
from dsllm.report.charts import Bar, Series, bar_chart, line_chart
from dsllm.report.folders import Run, first_number
from dsllm.report.scales import Axis, format_bytes, format_number, format_percent

MAX_ROWS = 12


def dedup(run: Run) -> list[Block]:
    """Removed documents by kind and by source."""
    counts = run.counts
    read, kept = run.number("n_documents"), run.number("n_kept")
    facts = _document_facts(read, kept)
    for name, label in (("n_removed_exact", "exact copies"), ("n_removed_near", "near copies")):
        if (n := run.number(name)) is not None:
            facts.append((format_number(n), label))
    if (n_bytes := run.number("n_text_bytes_kept")) is not None:
        facts.append((format_bytes(n_bytes), "of text kept"))
    blocks: list[Block] = [Facts(facts)]
    by_source = _shard_names(run)
    if len(by_source) > 1:
        blocks.append(_removed_by_source([*by_source, ("all", counts)]))
    blocks += _removed_by_dump(run)
    recall = first_number(run.manifest.content, "recall_at_threshold")
    threshold = first_number(run.manifest.config, "threshold")
    if recall is not None and threshold is not None:
        blocks.append(
            Note(f"Pairs as similar as {threshold:g} were met with probability {format_percent(recall)}.")
        )
    return blocks


def _document_facts(read: float | None, kept: float | None) -> list[tuple[str, str]]:
    facts = []
    if read is not None:
        facts.append((format_number(read), "documents read"))
    if kept is not None:
        facts.append((format_number(kept), "documents kept"))
    if read and kept is not None:
        facts.append((format_percent(1 - kept / read), "removed"))
    return facts


def _shard_names(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """The shards' counts, each under the name of its input where there is one input a shard."""
    shards = [shard for shard in run.manifest.shards if "n_documents" in shard.counts]
    inputs = run.manifest.inputs
    if len(inputs) == len(shards) and all(record.kind == "file" for record in inputs):
        names = [Path(record.path).name for record in inputs]
    else:
        names = [shard.name for shard in shards]
    return [(name, dict(shard.counts)) for name, shard in zip(names, shards, strict=True)]


def _removed_by_source(rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    shown, total = rows[:-1], rows[-1]
    made = []
    for name, counts in [*shown[:MAX_ROWS], total]:
        n, kept = counts.get("n_documents", 0), counts.get("n_kept", 0)
        gone = 1 - kept / n if n else 0.0
        made.append(
            [
                name,
                n,
                counts.get("n_removed_exact"),
                counts.get("n_removed_near"),
                kept,
                cell(gone, share=gone, text=format_percent(gone)),
            ]
        )
    caption = f"The first {MAX_ROWS} of {len(shown)} sources." if len(shown) > MAX_ROWS else ""
    columns = ["source", "documents", "exact copies", "near copies", "kept", "removed"]
    return table(columns, made, caption=caption, has_total=True)


def _removed_by_dump(run: Run) -> list[Block]:
    """How the removed share grows with the dumps that are cleaned together, beside that of each alone."""
    by = run.manifest.content.get("by")
    rows = by["dumps"] if isinstance(by, dict) else []
    if not isinstance(by, dict) or len(rows) < 2:
        return []
    lines = [
        Series(name, [(row["n_dumps"], 100 * row[key]) for row in rows], "dotted-line", colour)
        for colour, (name, key) in enumerate(
            (("taken together", "removed_together_frac"), ("each cleaned alone", "removed_apart_frac"))
        )
    ]
    title = f"Removed documents of {run.name} by number of dumps"
    picture = line_chart(title, Axis("dumps", is_tight=True), Axis("% removed", has_zero=True), lines)
    step = -(-len(rows) // MAX_ROWS)
    shown = [row for row in rows if row["n_dumps"] % step == 0 or row is rows[-1]]
    made = [
        [
            row["n_dumps"],
            row["name"],
            row["n_documents_so_far"],
            *(
                cell(row[key], share=row[key], text=format_percent(row[key]))
                for key in ("removed_together_frac", "removed_apart_frac")
            ),
        ]
        for row in shown
    ]
    columns = ["dumps", f"up to {by['field']}", "documents", "together", "each alone"]
    caption = "% of the documents removed, by the number of dumps"
    return [Beside(picture, caption, table(columns, made))]


def filter_(run: Run) -> list[Block]:
    """What each rule removed, and what is kept of each language and source."""
    groups = split_counts(run.counts)
    read, kept = run.number("n_documents"), run.number("n_kept")
    facts = _document_facts(read, kept)
    if (n_bytes := run.number("n_kept_bytes")) is not None:
        facts.append((format_bytes(n_bytes), "of lines kept"))
    blocks: list[Block] = [Facts(facts)]
    if rules := groups.get("rule"):
        blocks.append(_rules(rules, read or 0))
    tables = [
        _kept_by(kind, found) for kind in ("language", "source") if len(found := groups.get(kind, {})) > 1
    ]
    for kind, columns in _MORE_COUNTS.items():
        counted = sorted(groups.get(kind, {}).items())
        if counted:
            rows = [[name, *(numbers.get(key) for key in columns)] for name, numbers in counted]
            tables.append(table([kind, *columns.values()], rows[:MAX_ROWS]))
    return blocks + tables


# What cleaning counts: items of evaluation sets, personal data; names of counts and of columns.
_MORE_COUNTS = {
    "benchmark": {"n_documents": "documents with its items"},
    "personal": {"n_documents": "documents", "n_found": "masked"},
}


def split_counts(counts: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Sort counts like "rule.too_short.n_documents" into {"rule": {"too_short": {"n_documents": ...}}}."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for key, n in counts.items():
        kind, _, rest = key.partition(".")
        name, _, measure = rest.rpartition(".")
        if name:
            groups.setdefault(kind, {}).setdefault(name, {})[measure] = n
    return groups


def _rules(rules: dict[str, dict[str, Any]], read: float) -> Block:
    by_size = sorted(rules.items(), key=lambda item: (-item[1].get("n_documents", 0), item[0]))
    largest = max((numbers.get("n_documents", 0) for _, numbers in by_size), default=0)
    rows = []
    for name, numbers in by_size[:MAX_ROWS]:
        n = numbers.get("n_documents", 0)
        share = format_percent(n / read, decimals=2) if read else ""
        n_bytes = format_bytes(numbers.get("n_bytes", 0))
        bar = cell(n, share=n / largest if largest else 0.0)
        rows.append([name.replace("_", " "), bar, cell(0, text=share), cell(0, text=n_bytes)])
    return table(["first failed test", "documents", "of all", "size"], rows)


def _kept_by(kind: str, found: dict[str, dict[str, Any]]) -> Block:
    by_size = sorted(found.items(), key=lambda item: (-item[1].get("n_documents", 0), item[0]))
    rows = []
    for name, numbers in by_size[:MAX_ROWS]:
        n, kept = numbers.get("n_documents", 0), numbers.get("n_kept", 0)
        share = kept / n if n else 0.0
        rows.append([name, n, kept, cell(share, share=share, text=format_percent(share))])
    return table([kind, "documents", "kept", "share kept"], rows, caption=_largest_of(by_size))


def remix(run: Run) -> list[Block]:
    """Each source's share before, wanted and reached, and how often it was repeated."""
    facts = []
    for name, label in (
        ("n_written", "documents written"),
        ("n_repeats", "repeats"),
        ("n_dropped", "dropped"),
    ):
        if (n := run.number(name)) is not None:
            facts.append((format_number(n), label))
    if (n_bytes := run.number("n_text_bytes_written")) is not None:
        facts.append((format_bytes(n_bytes), "of text written"))
    blocks: list[Block] = [Facts(facts)]
    found = _by_size(run.counts.get("sources"), "n_text_bytes_written")
    if not found:
        return blocks
    sources = found[:MAX_ROWS]
    groups = [
        (label, [_percent_bar(numbers, key) for _, numbers in sources])
        for label, key in (("before", "before"), ("wanted", "wanted"), ("reached", "reached"))
    ]
    picture = bar_chart(
        f"Shares of the sources in {run.name}", [name for name, _ in sources], groups, Axis("% of the text")
    )
    rows = [
        [
            name,
            numbers.get("n_written"),
            *(_share_text(numbers, key) for key in ("before", "wanted", "reached")),
            numbers.get("epochs"),
        ]
        for name, numbers in sources
    ]
    columns = ["source", "documents", "before", "wanted", "reached", "epochs"]
    shares = table(columns, rows, caption=_largest_of(found))
    return [*blocks, Beside(picture, "Share of the text by source: before, wanted and reached", shares)]


def _by_size(sources: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(sources, dict):
        return []
    found = [(name, numbers) for name, numbers in sources.items() if isinstance(numbers, dict)]
    return sorted(found, key=lambda item: (-(first_number(item[1], key) or 0), item[0]))


def _percent_bar(numbers: dict[str, Any], key: str) -> Bar | None:
    share = first_number(numbers, key)
    return None if share is None else Bar(round(100 * share, 2))


def _share_text(numbers: dict[str, Any], key: str) -> Any:
    share = first_number(numbers, key)
    return None if share is None else cell(share, text=format_percent(share))


def tokenize_train(run: Run) -> list[Block]:
    """The vocabulary, and how well it compresses a sample."""
    content, sample = run.manifest.content, run.counts.get("sample")
    sample = sample if isinstance(sample, dict) else {}
    facts = []
    for name, label in (("vocab_size", "words"), ("model_vocab_size", "rows in the model")):
        if (n := first_number(content, name)) is not None:
            facts.append((format_number(n), label))
    facts += _bytes_per_token(sample)
    if (n := run.number("n_documents")) is not None:
        facts.append((format_number(n), "documents learnt from"))
    return [Facts(facts), *_fit_by_source(sample.get("sources"))]


def tokenize_encode(run: Run) -> list[Block]:
    """Tokens, and bytes per token by source."""
    facts = []
    for name, label in (("n_tokens", "tokens"), ("n_documents", "documents")):
        if (n := run.number(name)) is not None:
            facts.append((format_number(n), label))
    facts += _bytes_per_token(run.counts)
    if (unused := run.number("unused_words_frac")) is not None:
        facts.append((format_percent(unused), "of the words unused"))
    if (share := run.number("tokens_frac")) is not None:
        facts.append((format_percent(share), "of the other tokenizer's tokens"))
    by_language = _fit_by_source(run.counts.get("languages"), "language")
    return [Facts(facts), *_fit_by_source(run.counts.get("sources")), *by_language]


def _bytes_per_token(counts: dict[str, Any]) -> list[tuple[str, str]]:
    ratio = first_number(counts, "bytes_per_token")
    return [] if ratio is None else [(f"{ratio:.3f}", "bytes per token")]


def _fit_by_source(sources: Any, kind: str = "source") -> list[Block]:
    found = _by_size(sources, "n_bytes")
    if len(found) < 2:
        return []
    highest = max(first_number(numbers, "bytes_per_token") or 0 for _, numbers in found)
    rows = []
    for source, numbers in found[:MAX_ROWS]:
        ratio = first_number(numbers, "bytes_per_token") or 0
        n_bytes = first_number(numbers, "n_text_bytes", "n_bytes") or 0
        rows.append(
            [
                source,
                numbers.get("n_documents"),
                numbers.get("n_tokens"),
                cell(n_bytes, text=format_bytes(n_bytes)),
                cell(ratio, share=ratio / highest if highest else 0.0, text=f"{ratio:.3f}"),
            ]
        )
    columns = [kind, "documents", "tokens", "text", "bytes per token"]
    return [table(columns, rows, caption=_largest_of(found))]


def _largest_of(rows: Sequence[object]) -> str:
    return f"The {MAX_ROWS} largest of {len(rows)}." if len(rows) > MAX_ROWS else ""
