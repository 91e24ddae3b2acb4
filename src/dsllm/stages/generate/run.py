"""`dsllm generate`: prompts in, continuations out, on standard output."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError
from dsllm.progress import Reporter
from dsllm.stages.generate.config import GenerateConfig
from dsllm.text.compiled import announce_compiling

if TYPE_CHECKING:
    from dsllm.model.generate import Prompt
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
    n_prompts = n_tokens = 0
    with announce_compiling(reporter.say):
        for result in continue_prompts(speaker, prompts, config):
            n_tokens += result["n_tokens"]
            line = orjson.dumps(result).decode() if is_json else result["completion"]
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            n_prompts += 1
    return {"n_prompts": n_prompts // config.n_samples, "n_tokens": n_tokens}


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
    speaker: "Speaker", prompts: Iterable[str], config: GenerateConfig
) -> Iterator[dict[str, Any]]:
    """Continue prompts, `n_samples` times each, in their order; each is read when it can join the others."""
    from dsllm.model.generate import generate_each

    asked: dict[int, str] = {}
    texts = generate_each(
        speaker.decoder,
        _number_prompts(speaker, prompts, config, asked),
        speaker.sampling,
        batch_seqs=1 if sys.stdin.isatty() else config.batch_seqs,  # who types wants an answer at once
        cache_tokens=config.cache_tokens,
        is_ended=speaker.stops.is_ended,
    )
    ended: dict[int, list[int]] = {}
    n_given = 0
    for index, tokens in texts:
        ended[index] = tokens
        while n_given in ended:
            yield _result(speaker, asked.pop(n_given), ended.pop(n_given), config)
            n_given += 1


def _number_prompts(
    speaker: "Speaker", prompts: Iterable[str], config: GenerateConfig, asked: dict[int, str]
) -> Iterator["Prompt"]:
    """Encode each prompt `n_samples` times; write it into `asked` under its number."""
    from dsllm.model.generate import Prompt

    index = 0
    for prompt in prompts:
        tokens = _encode(speaker, prompt, config)
        for _ in range(config.n_samples):
            asked[index] = prompt
            yield Prompt(tokens, _mixed(config.seed, index))
            index += 1


def _result(speaker: "Speaker", prompt: str, tokens: Sequence[int], config: GenerateConfig) -> dict[str, Any]:
    is_stopped = tokens[-1] in speaker.sampling.stop_ids
    written = speaker.tokenizer.decode(list(tokens[:-1] if is_stopped else tokens), skip_special=True)
    completion = speaker.stops.cut(written)
    return {
        "prompt": prompt,
        "completion": completion.removeprefix(" ") if config.chat else completion,
        "n_tokens": len(tokens),
        "is_finished": is_stopped or completion != written,
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
