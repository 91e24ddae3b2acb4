"""`dsllm eval`: scores of a model on local files, item by item, in a folder that a killed run carries on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.io.atomic import write_atomic
from dsllm.io.folder import OutputFolder
from dsllm.progress import Bar, Reporter
from dsllm.stages.eval.config import EvalConfig
from dsllm.stages.eval.questions import Question, build_questions
from dsllm.stages.eval.scores import Sample, summarise
from dsllm.stages.eval.task import Task, find_task
from dsllm.text.compiled import announce_compiling

if TYPE_CHECKING:
    from dsllm.stages.eval.exam import Examiner

RESULTS = "results.json"


@dataclass(frozen=True)
class Paper:
    """A task and its questions."""

    task: Task
    questions: list[Question]

    @property
    def samples_name(self) -> str:
        """The file of its answers."""
        return f"samples-{self.task.name}.jsonl"


def run(
    config: EvalConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Ask every task's questions and write `results.json` and a `samples-TASK.jsonl` each.

    All questions are rendered before the first is asked, so a task file's mistakes show at once. Answers are
    kept every `shard_items` items: the same command goes on from there.

    Raises:
        DsllmError: a task, a model or a tokenizer that is missing or wrong.
    """
    from dsllm.stages.eval.exam import make_encoder, make_examiner

    model = _one_model(inputs)
    papers = _read_papers(config)
    encoder = make_encoder(model, config)
    with OutputFolder(
        output,
        stage="eval",
        config=config,
        inputs=[model],
        options=options,
        more_inputs=[config.tokenizer, *_files(papers)],
    ) as out:
        examiner = make_examiner(model, encoder, config)
        summaries = []
        n_items = sum(len(paper.questions) for paper in papers)
        with announce_compiling(reporter.say), reporter.bar("eval", total=n_items, unit="items") as bar:
            for paper in papers:
                samples = _ask(paper, examiner, config, out.scratch, bar)
                with out.create(paper.samples_name, n_items=len(samples)) as file:
                    for sample in samples:
                        file.write(_json_line(sample))
                summaries.append(summarise(paper.task, samples))
        with out.create(RESULTS) as file:
            file.write(
                json.dumps(_results(papers, summaries, config), indent=1, ensure_ascii=False).encode() + b"\n"
            )
        counts = {
            one["task"]: {key: one[key] for key in ("metric", "score", "stderr", "n")} for one in summaries
        }
        out.finish(counts=counts, content={"kind": "scores"})
    rows = [(one["task"], one["metric"], one["score"], one["stderr"], one["n"]) for one in summaries]
    reporter.table(f"scores of {model}", ("task", "metric", "score", "± standard error", "items"), rows)
    return counts


def plan(
    config: EvalConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Count items and tokens; the FLOPs are those of the forward passes, generations at full length."""
    from dsllm.model.flops import exact_flops_per_token
    from dsllm.model.hf import load_config
    from dsllm.stages.eval.exam import make_encoder, question_requests
    from dsllm.stages.eval.requests import generation_prompt, group_inputs

    model = _one_model(inputs)
    encoder, shape = make_encoder(model, config), load_config(model)
    tasks = {}
    for paper in _read_papers(config):
        n_tokens = 0
        for question in paper.questions:
            if paper.task.settings.kind == "generation":
                n_new = paper.task.settings.max_new_tokens
                where = f"task {paper.task.name}, item {question.index + 1:,}"
                n_tokens += n_new + len(
                    generation_prompt(question.pairs[0][0], encoder, max_new_tokens=n_new, where=where)
                )
            else:
                n_tokens += sum(map(len, group_inputs(question_requests(paper.task, question, encoder))))
        flops = (
            n_tokens * exact_flops_per_token(shape, counts_vocabulary=True) // 3
        )  # forward, of forward and backward
        tasks[paper.task.name] = {"n_items": len(paper.questions), "n_tokens": n_tokens, "flops": flops}
    rows = [(name, *numbers.values()) for name, numbers in tasks.items()]
    reporter.table(f"would ask {model}", ("task", "items", "tokens read", "FLOPs"), rows)
    names = [RESULTS, *(f"samples-{name}.jsonl" for name in tasks)]
    return {"model": model, "tasks": tasks, "writes": [str(Path(output) / name) for name in names]}


def _one_model(inputs: Sequence[str]) -> str:
    if len(inputs) != 1:
        raise ConfigError(
            f"{len(inputs)} models are given", hint="give one: dsllm eval MODEL -o OUT --task NAME=PATH"
        )
    return inputs[0]


def _read_papers(config: EvalConfig) -> list[Paper]:
    tasks = [find_task(given, n_shots=config.n_shots) for given in config.task]
    return [Paper(task, build_questions(task, limit=config.limit)) for task in tasks]


def _files(papers: Sequence[Paper]) -> list[str]:
    """List the files that the tasks read, once each."""
    files = [path for paper in papers for path in paper.task.files]
    return list(dict.fromkeys(map(str, files)))


def _ask(paper: Paper, examiner: "Examiner", config: EvalConfig, scratch: Path, bar: Bar) -> list[Sample]:
    """Answer a task's questions, shard by shard; shards that a run before has answered are read."""
    from dsllm.stages.eval.exam import answer

    scratch.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for shard, begin in enumerate(range(0, len(paper.questions), config.shard_items)):
        path = scratch / f"{paper.task.name}-{shard:05}.jsonl"
        questions = paper.questions[begin : begin + config.shard_items]
        if path.exists():
            found = [json.loads(line) for line in path.read_bytes().splitlines()]
            bar.advance(len(found), paper.task.name)
        else:
            found = answer(examiner, paper.task, questions, lambda n: bar.advance(n, paper.task.name))
            write_atomic(path, b"".join(map(_json_line, found)))
        samples += found
    return samples


def _json_line(sample: Sample) -> bytes:
    return json.dumps(sample, ensure_ascii=False).encode() + b"\n"


def _results(papers: Sequence[Paper], summaries: list[dict[str, Any]], config: EvalConfig) -> dict[str, Any]:
    """Make the content of results.json: scores, and all that they depend on besides the model."""
    definitions = {
        paper.task.name: paper.task.settings.to_dict()
        | {"extract": [extraction.to_dict() for extraction in paper.task.extractions]}
        for paper in papers
    }
    asked = {"chat": config.chat, "bos": config.bos, "max_length": config.max_length, "limit": config.limit}
    return {"results": {one["task"]: one for one in summaries}, "asked": asked, "tasks": definitions}
