"""`dsllm generate`: prompts in, continuations out, on standard output."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError
from dsllm.progress import Reporter
from dsllm.stages.generate.config import GenerateConfig

if TYPE_CHECKING:
    from dsllm.stages.generate.speaker import Speaker


def run(
    config: GenerateConfig,
    inputs: Sequence[str],
    output: str = "-",
    *,
    options: RunOptions,
    reporter: Reporter,
    is_json: bool = False,
) -> dict[str, Any]:
    """Continue one prompt, or each line of standard input; print what the model adds.

    Plain, a continuation is printed as it is, and a line end behind it. With `is_json` each is one line,
    {"prompt", "completion", "n_tokens", "is_finished"}, and lines of the input that are JSON objects give
    their field `prompt`.

    Args:
        config: how to sample.
        inputs: the model folder.
        output: always "-".
        options: not used.
        reporter: says how it goes.
        is_json: JSON Lines in and out.
    """
    from dsllm.stages.generate.speaker import load_speaker

    speaker = load_speaker(one_model(inputs), config)
    prompts = [config.prompt] if config.prompt is not None else _read_prompts(is_json=is_json)
    n_at_once = 1 if sys.stdin.isatty() else config.batch_seqs  # who types wants an answer at once
    n_prompts = n_tokens = 0
    remaining = iter(prompts)
    while batch := list(islice(remaining, n_at_once)):
        for result in continue_prompts(speaker, batch, config, first=n_prompts):
            n_tokens += result["n_tokens"]
            line = orjson.dumps(result).decode() if is_json else result["completion"]
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        n_prompts += len(batch)
    return {"n_prompts": n_prompts, "n_tokens": n_tokens}


def plan(
    config: GenerateConfig,
    inputs: Sequence[str],
    output: str = "-",
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Say how large the model is and what a token costs."""
    from dsllm.model.flops import exact_flops_per_token, n_parameters
    from dsllm.model.folder import open_folder

    shape, _ = open_folder(one_model(inputs), config.tokenizer)
    n_bytes = n_parameters(shape) * (4 if config.dtype == "fp32" else 2)
    return {
        "n_parameters": n_parameters(shape),
        "memory_bytes": n_bytes,
        "flops_per_new_token": exact_flops_per_token(shape, counts_vocabulary=True) // 3,
    }


def one_model(inputs: Sequence[str]) -> str:
    """Return the one model that is given."""
    if len(inputs) != 1:
        raise ConfigError(f"{len(inputs)} models are given", hint="give one model folder")
    return inputs[0]


def continue_prompts(
    speaker: "Speaker", prompts: Sequence[str], config: GenerateConfig, *, first: int = 0
) -> Iterator[dict[str, Any]]:
    """Continue prompts, `n_samples` times each; `first` is the number of the first one, for the draws."""
    from dsllm.model.generate import generate

    encoded = [_encode(speaker, prompt, config) for prompt in prompts for _ in range(config.n_samples)]
    begin = first * config.n_samples
    texts = generate(
        speaker.model,
        encoded,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_ids=sorted(speaker.sampling.stop_ids),
        seed=[_mixed(config.seed, begin + index) for index in range(len(encoded))],
        batch_seqs=config.batch_seqs,
    )
    for index, tokens in enumerate(texts):
        is_finished = tokens[-1] in speaker.sampling.stop_ids
        completion = speaker.tokenizer.decode(tokens[:-1] if is_finished else tokens, skip_special=True)
        yield {
            "prompt": prompts[index // config.n_samples],
            "completion": completion.removeprefix(" ") if config.chat else completion,
            "n_tokens": len(tokens),
            "is_finished": is_finished,
        }


def _encode(speaker: "Speaker", prompt: str, config: GenerateConfig) -> list[int]:
    tokenizer = speaker.tokenizer
    if config.chat:
        return speaker.fit([{"role": "user", "content": prompt}])
    tokens = tokenizer.encode(prompt)
    start_id = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    wants_start = config.bos == "always" or (config.bos == "auto" and tokenizer.adds_bos) or not tokens
    if wants_start and start_id is None:
        raise ConfigError(
            "the tokenizer names neither a BOS nor an EOS token to begin with",
            hint="give a --prompt that is not empty, and no --bos always",
        )
    return [start_id, *tokens] if wants_start and start_id is not None else tokens


def _read_prompts(*, is_json: bool) -> Iterable[str]:
    """Read standard input: a prompt a line, or with `is_json` a JSON object a line as well."""
    for line_number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            line = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DocumentError(
                f"standard input, line {line_number:,}: not UTF-8 at byte {error.start + 1:,}",
                hint="convert it first: iconv -t UTF-8",
            ) from None
        if line.isspace() or not line:
            continue
        yield _json_prompt(line, line_number) if is_json and line.startswith("{") else line


def _json_prompt(line: str, line_number: int) -> str:
    try:
        prompt = orjson.loads(line).get("prompt")
    except orjson.JSONDecodeError as error:
        raise DocumentError(
            f"standard input, line {line_number:,}: not JSON: {error}",
            hint="mend the line, or leave --json out",
        ) from None
    if not isinstance(prompt, str):
        raise DocumentError(
            f"standard input, line {line_number:,}: no 'prompt' that is a string",
            hint='give {"prompt": "..."}',
        )
    return prompt


def _mixed(seed: int, index: int) -> int:
    """One seed for each continuation, the same however they are batched."""
    return (seed << 40) + index
