"""What each stage left behind, in one row: documents, text, tokens, and the number it is run for."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsllm.report.folders import Run, first_number
from dsllm.report.pipeline import Node
from dsllm.report.scales import format_bytes, format_number, format_percent
from dsllm.stages.fit_scaling.fit import law_of
from dsllm.stages.fit_scaling.predict import FITS

_DOCUMENTS = ("n_written", "n_kept", "n_documents")
_TEXT = ("n_text_bytes_written", "n_text_bytes_kept", "n_kept_bytes", "n_text_bytes", "n_bytes")
MAX_SCORES = 3


@dataclass(frozen=True)
class Outcome:
    """A row's cells, empty where they do not apply."""

    documents: str = ""
    text: str = ""
    on_disk: str = ""
    tokens: str = ""
    note: str = ""


def node_outcome(node: Node) -> Outcome:
    """Sum up a run; of a ladder only how many it has."""
    run = node.runs[0]
    if node.is_raw:
        read, text = run.number("n_documents"), run.number("n_text_bytes", "n_line_bytes", "n_bytes")
        return Outcome(
            documents="" if read is None else format_number(read),
            text="" if text is None else format_bytes(text),
        )
    n_bytes = sum(shard.n_bytes for one in node.runs for shard in one.manifest.shards)
    if node.is_group:
        compute = [n for one in node.runs if (n := one.number("compute_flops"))]
        span = f"{min(compute):.1e} to {max(compute):.1e} FLOPs" if compute else ""
        return Outcome(on_disk=format_bytes(n_bytes), note=span.replace("e+", "e"))
    is_data = run.manifest.content.get("kind") in ("documents", "tokens") and not run.is_side
    documents, text = (run.number(*names) if is_data else None for names in (_DOCUMENTS, _TEXT))
    tokens = run.number("n_tokens_written", "n_tokens")
    return Outcome(
        documents="" if documents is None else format_number(documents),
        text="" if text is None else format_bytes(text),
        on_disk=format_bytes(n_bytes),
        tokens="" if tokens is None else format_number(tokens),
        note=_note(run),
    )


def _note(run: Run) -> str:
    if run.is_side:
        return "what was taken out"
    if run.stage in ("dedup", "filter"):
        read, kept = run.number("n_documents"), run.number("n_kept")
        return f"{format_percent(1 - kept / read)} removed" if read and kept is not None else ""
    if run.stage == "remix":
        sources = run.counts.get("sources")
        return f"{len(sources)} sources" if isinstance(sources, dict) else ""
    if run.stage.startswith("tokenize"):
        return _tokenizer_note(run)
    if run.stage == "eval":
        return _scores(run)
    if run.stage == "fit-scaling fit":
        law = law_of(run.read_json(FITS), "isoflop", "flops_per_token")
        return f"M_opt = {law}" if law else "no law for M_opt"
    if run.stage == "fit-scaling plan":
        return f"{format_number(run.number('n_runs'))} runs"
    return _start_to_end(run)


def _tokenizer_note(run: Run) -> str:
    sample = run.counts.get("sample", run.counts)
    ratio = first_number(sample if isinstance(sample, dict) else {}, "bytes_per_token")
    words = first_number(run.manifest.content, "vocab_size") if run.stage == "tokenize train" else None
    parts = [f"{format_number(words)} words"] if words is not None else []
    return ", ".join(parts + ([f"{ratio:.2f} bytes per token"] if ratio is not None else []))


def _scores(run: Run) -> str:
    scores = [f"{task} {first_number(entry, 'score'):.3f}" for task, entry in run.scores.items()]
    said = ", ".join(scores[:MAX_SCORES])
    return said + (f" and {len(scores) - MAX_SCORES} more" if len(scores) > MAX_SCORES else "")


def _start_to_end(run: Run) -> str:
    """The measure that a training run is judged by, from its start to its end."""
    for name, words in (
        ("valid_bits_per_byte", "bits per byte"),
        ("valid_loss", "validation loss"),
        ("loss", "loss"),
    ):
        start, end = run.number(f"initial_{name}"), run.number(name)
        if start is not None and end is not None:
            return f"{words} {start:.3f} → {end:.3f}"
    return ""


def glance(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """The numbers that sum up all runs together."""
    runs = [node.runs[0] for node in nodes if not (node.is_group or node.is_raw or node.runs[0].is_side)]
    items = []
    data = [run for run in runs if run.stage in ("dedup", "filter")]
    if data:
        read, left = data[0].number("n_documents"), data[-1].number("n_kept")
        if read is not None and left is not None:
            items.append((f"{format_number(read)} → {format_number(left)}", "documents, raw → clean"))
    for stage, names, label in (
        ("tokenize encode", ("n_tokens",), "tokens"),
        ("tokenize encode", ("bytes_per_token",), "bytes per token"),
        ("pretrain", ("n_parameters",), "parameters"),
        ("pretrain", ("valid_bits_per_byte",), "bits per byte"),
    ):
        made = [run for run in runs if run.stage == stage]
        largest = max(made, key=lambda run: run.number("compute_flops", "n_tokens") or 0, default=None)
        if largest and (n := largest.number(*names)) is not None:
            items.append((format_number(n), label))
    return items
