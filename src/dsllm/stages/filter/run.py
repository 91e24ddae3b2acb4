"""`dsllm filter`: one pass over the documents, and what is said about it.

Rejected by the first test that fails: the language, then each rule in the order of its file, then the quality
model. What stays is written byte for byte as it came.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.apart import check_folders
from dsllm.io.atomic import file_sha256
from dsllm.io.sources import Source, find_sources, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.filter import perplexity
from dsllm.stages.filter.addresses import BlockList
from dsllm.stages.filter.benchmarks import benchmark_files
from dsllm.stages.filter.classifiers import SHIPPED_MODEL, QualityModel
from dsllm.stages.filter.config import BUCKETS, FilterConfig
from dsllm.stages.filter.explain import Explanation
from dsllm.stages.filter.judge import REJECTED, Filter, read_decontaminator, read_languages
from dsllm.stages.filter.overview import Overview, is_needed, look_over, n_passes
from dsllm.stages.filter.rules import PRESETS, read_rules, rules_path
from dsllm.stages.filter.scripts import BY_SCRIPT
from dsllm.stages.filter.share import describe_bounds, describe_groups, show_bounds
from dsllm.stages.filter.steps import read_bad_words
from dsllm.stages.filter.train_quality import train
from dsllm.workers.documents import Task, map_documents
from dsllm.workers.passes import Pass

STAGE = "filter"
KINDS_OF_COUNTS = ("rule", "language", "source", "benchmark", "personal")
N_ROWS = 15  # of the tables by language and by source


def run(
    config: FilterConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the documents of `inputs` that pass all tests to `output`; return the counts.

    With `train_quality` or `train_words` make a model instead: see the files of that name.

    Raises:
        InputError: a model or a rules file that is missing or no such thing, or no document in any input.
        ConfigError: a rule that cannot be, a language that the model does not know, or one folder for two.
        OutputError: a folder to write lies in an input.
    """
    if config.train_words:
        return perplexity.train(config, inputs, output, options=options, reporter=reporter)
    if config.train_quality:
        return train(config, inputs, output, options=options, reporter=reporter)
    check_folders({"-o": output, "--rejected": config.rejected}, inputs)
    rules = _check(config)
    content: dict[str, Any] = {}
    if config.lid_model is None:
        content["language_model_sha256"] = file_sha256(SHIPPED_MODEL)
    explanation = Explanation()
    counts = map_documents(
        Filter(config),
        stage=STAGE,
        config=config,
        inputs=inputs,
        output=output,
        options=options,
        reporter=reporter,
        side_folders={REJECTED: config.rejected} if config.rejected is not None else {},
        content=lambda: content,
        more_inputs=_more_inputs(config),
        see=explanation.add,
        prepare=_prepare(config, content, reporter) if is_needed(config) else None,
    )
    order = [
        "block_urls",
        "language",
        "language_confidence",
        "recurring_lines",
        *dict.fromkeys(rule.name for rule in rules),
        "bad_words",
        "quality",
        "perplexity",
        "decontaminate",
        "host_rejection",
    ]
    summary = summarise(counts, order)
    _tell(summary, reporter)
    if config.explain:
        if explanation.n_documents < counts.get("n_documents", 0):
            reporter.say(
                "dsllm: explained are the documents of this run; some shards were finished before it"
            )
        explanation.tell(reporter)
        summary["explained"] = explanation.to_dict()
    return summary


def _prepare(
    config: FilterConfig, content: dict[str, Any], reporter: Reporter
) -> Callable[[Pass, list[Source]], Task]:
    """Give what finds out what must be known of the whole before, and gives the task that knows it."""

    def make_judge(config: FilterConfig, found: Overview) -> Any:
        return Filter(config, found).judge_batch

    def prepare(work: Pass, sources: list[Source]) -> Task:
        found = look_over(config, sources, work, make_judge)
        if found.perplexity:
            content["perplexity_cuts"] = describe_groups(
                config.keep_frac_by,
                {group: dict(zip(BUCKETS, cuts, strict=False)) for group, cuts in found.perplexity.items()},
            )
        if found.quality:
            content["quality_bounds"] = describe_bounds(found.quality, config.keep_frac_by)
            show_bounds(found.quality, reporter)
        return Filter(config, found)

    return prepare


def plan(
    config: FilterConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what a run would read and which tests it would make; read no document."""
    sources = find_sources(inputs)
    if config.train_quality or config.train_words:
        return {"stage": STAGE, "output": output, "n_bytes_to_read": total_bytes(sources), "n_threads": 1}
    rules = _check(config)
    return {
        "stage": STAGE,
        "output": output,
        "n_sources": len(sources),
        "n_bytes_to_read": total_bytes(sources),
        "languages": list(config.languages),
        "tests": list(dict.fromkeys(rule.name for rule in rules)),
        "n_passes": n_passes(config),
        "memory_bytes_per_worker": 200 << 20,
    }


def summarise(counts: dict[str, int], order: Sequence[str]) -> dict[str, Any]:
    """Sort the flat counts of the manifest into totals and groups: rules in order, the rest by size."""
    summary: dict[str, Any] = {name: n for name, n in counts.items() if "." not in name}
    groups: dict[str, dict[str, dict[str, int]]] = {kind: {} for kind in KINDS_OF_COUNTS}
    for key, n in counts.items():
        kind, _, rest = key.partition(".")
        if rest:
            name, _, measure = rest.rpartition(".")
            groups[kind].setdefault(name, {})[measure] = n
    ranks = {name: rank for rank, name in enumerate(order)}
    by_rank = sorted(groups["rule"].items(), key=lambda item: ranks[item[0]])
    summary["rejected"] = dict(by_rank)
    for kind in ("language", "source"):
        by_size = sorted(groups[kind].items(), key=lambda item: (-item[1]["n_documents"], item[0]))
        summary[f"{kind}s"] = dict(by_size)
    for kind in ("benchmark", "personal"):
        if groups[kind]:
            summary[kind] = dict(sorted(groups[kind].items()))
    return summary


def _check(config: FilterConfig) -> tuple[Any, ...]:
    """Read rules and models once before any worker does, so that their faults are told at once."""
    rules = read_rules(config.rules)
    read_languages(config).check()
    if config.bad_words is not None:
        read_bad_words(config.bad_words)
    if config.quality_model is not None:
        QualityModel(config.quality_model)
    if config.word_model is not None:
        perplexity.read_model(config.word_model)
    if config.block_urls:
        BlockList.read(config.block_urls)
    if config.decontaminate:
        read_decontaminator(config)
    return rules


def _more_inputs(config: FilterConfig) -> list[str | None]:
    """List the files beside the documents that the result depends on."""
    path = rules_path(config.rules)
    own_rules = None if path is None or config.rules in PRESETS else str(path)
    lid_model = None if config.lid_model == BY_SCRIPT else config.lid_model
    evaluation_sets = [str(path) for given in config.decontaminate for path, _ in benchmark_files(given)]
    models = [lid_model, config.quality_model, config.word_model]
    lists = [config.bad_words, *config.block_urls]
    return [*models, own_rules, *lists, *evaluation_sets]


def _tell(summary: dict[str, Any], reporter: Reporter) -> None:
    """Print what each rule removed, then languages and sources."""
    n_documents, n_bytes = summary.get("n_documents", 0), summary.get("n_line_bytes", 0)
    rows = [
        (name, n["n_documents"], _percent(n["n_documents"], n_documents), n["n_bytes"])
        for name, n in summary["rejected"].items()
    ]
    kept = summary.get("n_kept", 0)
    rows.append(("kept", kept, _percent(kept, n_documents), summary.get("n_kept_bytes", 0)))
    rows.append(("all", n_documents, _percent(n_documents, n_documents), n_bytes))
    reporter.table("filter: removed by", ("first failed test", "documents", "share", "bytes"), rows)
    for kind in ("language", "source"):
        groups = list(summary[f"{kind}s"].items())
        if len(groups) > 1:
            rows = [
                (name, n["n_documents"], n["n_kept"], _percent(n["n_kept"], n["n_documents"]))
                for name, n in groups[:N_ROWS]
            ]
            reporter.table(f"filter: by {kind}", (kind, "documents", "kept", "share"), rows)

    for kind, columns in (
        ("benchmark", ("evaluation set", "documents")),
        ("personal", ("masked", "documents")),
    ):
        if summary.get(kind):
            counted = [
                (name, n.get("n_documents", 0), *([n["n_found"]] if "n_found" in n else []))
                for name, n in summary[kind].items()
            ]
            reporter.table(f"filter: {kind}", (*columns, *(["times"] if kind == "personal" else [])), counted)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
