"""Tokens per second beside transformers' `generate`: the same model, dtype, prompts and greedy tokens.

In an environment of its own (transformers 5.23.0, torch 2.13.0, safetensors, numba; dsllm by PYTHONPATH=src):

    python benchmarks/generate_speed.py [--shape tiny,135m] [--runs 5] [--threads 2]

The models have random weights, are written by dsllm and read by both. One request: 64 prompt tokens, 64 new
ones. Sixteen requests: prompts of 10 to 200 tokens, 32 to 128 new tokens each; transformers pads them on the
left and goes on until the longest is done, and only the tokens asked for are counted. Sixteen with a common
beginning: 400 tokens that all prompts share, 20 of their own, 16 new ones. Runs alternate; what is reported
is the median of the paired ratios of time. Status 1 if the tokens differ.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import transformers

from dsllm.model.config import ModelConfig
from dsllm.model.decoder import Decoder
from dsllm.model.generate import generate
from dsllm.model.hf import load_model, save_model
from dsllm.model.transformer import Transformer

SEED = 5
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SHAPES = {
    "tiny": ModelConfig(
        vocab_size=256,
        n_layers=3,
        d_model=64,
        d_ff=176,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        seq_len=512,
        init_std=0.08,
    ),
    "135m": ModelConfig(  # that of SmolLM2-135M
        vocab_size=49152,
        n_layers=30,
        d_model=576,
        d_ff=1536,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        seq_len=2048,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        init_std=0.04,
    ),
}


Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """Prompts, and how many tokens each is to get."""

    name: str
    prompts: list[list[int]]
    n_new: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure generation beside transformers.")
    parser.add_argument("--shape", default="tiny,135m", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--work", default="one,mixed,shared", help="which of the three")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    is_equal = True
    print(f"| {'model':6} | {'requests':28} | dsllm, tokens/s | transformers | ratio | all ratios | equal |")
    for name in arguments.shape.split(","):
        with tempfile.TemporaryDirectory() as folder:
            write_model(SHAPES[name], folder)
            decoder = Decoder(load_model(folder))
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        theirs.generation_config.eos_token_id = None
        works = make_work(SHAPES[name].vocab_size)
        for work in (works[kind] for kind in arguments.work.split(",")):
            is_equal &= compare(name, work, (decoder, theirs), arguments.runs, CLOCKS[arguments.clock])
    if not is_equal:
        raise SystemExit("greedy tokens differ")


def write_model(config: ModelConfig, folder: str) -> None:
    model = Transformer(config)
    model.init_weights(SEED)
    save_model(model, folder)


def make_work(vocab_size: int) -> dict[str, Work]:
    draw = random.Random(SEED)

    def tokens(n: int) -> list[int]:
        return [draw.randrange(2, vocab_size) for _ in range(n)]

    common = tokens(400)
    lengths = [round(10 + 190 * place / 15) for place in range(16)]
    n_new = [round(32 + 96 * place / 15) for place in range(16)]
    draw.shuffle(n_new)
    return {
        "one": Work("1, 64 + 64", [tokens(64)], [64]),
        "mixed": Work("16 mixed, 10..200 + 32..128", [tokens(n) for n in lengths], n_new),
        "shared": Work("16, 400 shared, 20 + 16", [common + tokens(20) for _ in range(16)], [16] * 16),
    }


def compare(name: str, work: Work, models, n_runs: int, clock: Clock) -> bool:
    decoder, theirs = models
    ours_s, theirs_s = [], []
    for _ in range(n_runs + 1):  # the first warms up
        found, seconds = timed(lambda: generate(decoder, work.prompts, max_new_tokens=work.n_new), clock)
        ours_s.append(seconds)
        expected, seconds = timed(lambda: generate_theirs(theirs, work), clock)
        theirs_s.append(seconds)
    ratios = [b / a for a, b in zip(ours_s[1:], theirs_s[1:], strict=True)]
    n_tokens = sum(work.n_new)
    n_equal = sum(one == two for one, two in zip(found, expected, strict=True))
    print(
        f"| {name:6} | {work.name:28} | {n_tokens / statistics.median(ours_s[1:]):15.1f} "
        f"| {n_tokens / statistics.median(theirs_s[1:]):12.1f} | {statistics.median(ratios):5.2f} "
        f"| {' '.join(f'{ratio:.2f}' for ratio in ratios)} | {n_equal}/{len(found)} |",
        flush=True,
    )
    return n_equal == len(found)


def generate_theirs(model, work: Work) -> list[list[int]]:
    longest = max(map(len, work.prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in work.prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in work.prompts])
    with torch.inference_mode():
        texts = model.generate(
            padded, attention_mask=mask, max_new_tokens=max(work.n_new), do_sample=False, pad_token_id=0
        )
    return [text[longest : longest + n].tolist() for text, n in zip(texts, work.n_new, strict=True)]


def timed(run: Callable[[], Sequence[list[int]]], clock: Clock) -> tuple[Sequence[list[int]], float]:
    started_s = clock()
    result = run()
    return result, clock() - started_s


if __name__ == "__main__":
    main()
