"""An examination: a model and its tokenizer answer the questions of a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from dsllm.errors import ConfigError
from dsllm.model.decoder import Decoder
from dsllm.model.folder import open_folder
from dsllm.model.generate import Prompt, generate_each
from dsllm.model.hf import load_model, stop_ids
from dsllm.model.sampling import Sampling
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import find_device
from dsllm.stages.eval.answers import cut_at
from dsllm.stages.eval.config import EvalConfig
from dsllm.stages.eval.likelihood import Likelihood, score_requests
from dsllm.stages.eval.questions import Question
from dsllm.stages.eval.requests import Encoder, Request, document_requests, generation_prompt, pair_request
from dsllm.stages.eval.scores import (
    Sample,
    score_choice,
    score_continuation,
    score_document,
    score_generation,
)
from dsllm.stages.eval.task import Task
from dsllm.text.stops import StopStrings

Advance = Callable[[int], None]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Examiner:
    """Who answers, and how much at once."""

    model: Transformer
    encoder: Encoder
    stop_ids: tuple[int, ...]
    batch_tokens: int

    @cached_property
    def decoder(self) -> Decoder:
        """The model, prepared once for all that it is to write."""
        return Decoder(self.model)


def make_encoder(folder: str, config: EvalConfig) -> Encoder:
    """Load the tokenizer of a model folder and check that the two fit.

    Raises:
        InputError: no tokenizer or no model there.
        ConfigError: the vocabularies do not fit, no token to begin with, or too large a `max_length`.
    """
    shape, tokenizer = open_folder(folder, config.tokenizer)
    start_id = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start_id is None:
        raise ConfigError(
            f"{folder}: the tokenizer names neither a BOS nor an EOS token",
            hint="name them in its tokenizer_config.json: bos_token and eos_token",
        )
    if config.max_length is not None and config.max_length > shape.seq_len:
        raise ConfigError(
            f"max_length is {config.max_length:,}, but the model reads {shape.seq_len:,} tokens",
            hint=f"give --max-length {shape.seq_len} or less",
        )
    adds_start = tokenizer.adds_bos if config.bos == "tokenizer" else config.bos == "always"
    return Encoder(tokenizer, start_id, adds_start, config.chat, config.max_length or shape.seq_len)


def make_examiner(folder: str, encoder: Encoder, config: EvalConfig) -> Examiner:
    """Load the model."""
    model = load_model(folder, dtype=_DTYPES[config.dtype], device=find_device(config.device)).eval()
    eos_id = encoder.tokenizer.eos_id
    stops = {*stop_ids(Path(folder)), *([] if eos_id is None else [eos_id])}
    return Examiner(model, encoder, tuple(sorted(stops)), config.batch_tokens)


def answer(examiner: Examiner, task: Task, questions: Sequence[Question], advance: Advance) -> list[Sample]:
    """Put questions of one task to the model; the samples come in their order."""
    if task.settings.kind == "generation":
        return _generate(examiner, task, questions, advance)
    encoder = examiner.encoder
    asked = [question_requests(task, question, encoder) for question in questions]
    without = [_unconditional(task, question, encoder) for question in questions]
    scored = iter(_score(examiner, [request for part in (*asked, *without) for request in part]))
    answers = [[next(scored) for _ in part] for part in asked]
    baselines = [[next(scored) for _ in part] for part in without]
    samples = []
    for question, requests, found, baseline in zip(questions, asked, answers, baselines, strict=True):
        sample = _sample(task, question, requests, found, baseline)
        if task.settings.kind != "documents":
            sample = _with_prompt(sample, encoder, requests[0].tokens[: -requests[0].n_scored])
        samples.append(sample)
        advance(1)
    return samples


def question_requests(task: Task, question: Question, encoder: Encoder) -> list[Request]:
    """List what is asked about one item: its continuations, or its windows."""
    where = f"task {task.name}, item {question.index + 1:,}"
    if task.settings.kind == "documents":
        return list(document_requests(question.document, encoder))
    texts = question.choices if encoder.chat else [continuation for _, continuation in question.pairs]
    return [
        pair_request(context, text, encoder, where=where)
        for (context, _), text in zip(question.pairs, texts, strict=True)
    ]


def _unconditional(task: Task, question: Question, encoder: Encoder) -> list[Request]:
    """Ask for each continuation again, without the question."""
    if task.settings.kind != "choice" or task.settings.normalise != "unconditional":
        return []
    where = f"task {task.name}, item {question.index + 1:,}"
    context = task.settings.unconditional_context
    texts = question.choices if encoder.chat else [continuation for _, continuation in question.pairs]
    return [pair_request(context, text, encoder, where=where) for text in texts]


def _score(examiner: Examiner, requests: list[Request]) -> list[Likelihood]:
    return score_requests(examiner.model, requests, batch_tokens=examiner.batch_tokens)


def _sample(
    task: Task,
    question: Question,
    requests: Sequence[Request],
    found: Sequence[Likelihood],
    baseline: Sequence[Likelihood],
) -> Sample:
    logps, n_tokens = [one.logp for one in found], [request.n_scored for request in requests]
    if task.settings.kind == "documents":
        return score_document(question, sum(logps), sum(n_tokens))
    if task.settings.kind == "continuation":
        return score_continuation(question, logps[0], found[0].is_greedy)
    return score_choice(task, question, logps, n_tokens, [one.logp for one in baseline] or None)


def _generate(
    examiner: Examiner, task: Task, questions: Sequence[Question], advance: Advance
) -> list[Sample]:
    settings, encoder = task.settings, examiner.encoder
    prompts = [
        generation_prompt(
            question.pairs[0][0],
            encoder,
            max_new_tokens=settings.max_new_tokens,
            where=f"task {task.name}, item {question.index + 1:,}",
        )
        for question in questions
    ]
    longest = max(map(len, prompts)) + settings.max_new_tokens
    stops = StopStrings(encoder.tokenizer, [text for text in settings.stop if text])
    texts = generate_each(
        examiner.decoder,
        map(Prompt, prompts),
        Sampling(settings.max_new_tokens, stop_ids=frozenset(examiner.stop_ids)),
        batch_seqs=max(1, examiner.batch_tokens // longest),
        is_ended=stops.is_ended,
    )
    samples: dict[int, Sample] = {}
    for index, tokens in texts:
        written = encoder.tokenizer.decode(tokens, skip_special=True)
        text = cut_at(written, settings.stop)
        is_finished = text != written or tokens[-1] in examiner.stop_ids
        sample = score_generation(task, questions[index], text, is_finished)
        samples[index] = _with_prompt(sample, encoder, prompts[index])
        advance(1)
    return [samples[index] for index in range(len(questions))]


def _with_prompt(sample: Sample, encoder: Encoder, prompt: Sequence[int]) -> Sample:
    """Under a chat template, show the prompt as the model read it."""
    return sample | {"prompt": encoder.tokenizer.decode(list(prompt))} if encoder.chat else sample
