"""Speed, memory and loss of a training step on the CPU: dsllm's own beside other trainers.

    python benchmarks/training_step.py [--sizes S,M] [--dtypes fp32,bf16] [--trainers dsllm,transformers,...]

`make -C benchmarks trainers` makes the peers' environments; `training_peers.py` says what a step is. All
start from the same weights and read the same tokens, but for nanochat, which is another function. The
processes of one size and dtype live side by side, each with one thread, and take turns: one step each, round
after round, so that whatever else the machine does falls on all of them. Of bf16 there are two: bf16 keeps
weights and moments in fp32; bf16-weights rounds those too, and stands under bf16 in the table.

- tokens/CPU s: of the median step after the first ones, which compile and allocate.
- ratio: a trainer's CPU seconds over dsllm's in the same round, median of rounds, with least and largest.
- peak MB: of the resident set of the process. loss: of the last step; difference: from transformers in fp32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dsllm.model.config import ModelConfig
from dsllm.model.hf import save_model
from dsllm.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=4096, n_layers=8, d_model=256, d_ff=704, n_heads=8, n_kv_heads=4, head_dim=32, seq_len=256,
    rope_theta=1e4, rms_norm_eps=1e-5, init_std=0.02, bos_id=0, eos_id=1,
)  # fmt: skip
MIDDLE = replace(SMALL, vocab_size=32_000, d_model=512, d_ff=1408, head_dim=64, seq_len=512)
SIZES = {  # the shape, and sequences in a batch
    "S": (SMALL, 8),
    "M": (MIDDLE, 4),
    "S-102400": (replace(SMALL, vocab_size=102_400), 8),
    "M-102400": (replace(MIDDLE, vocab_size=102_400), 4),
}
TRAINERS = ("dsllm", "transformers", "litgpt", "nanochat")
N_WARM_UP_STEPS = 3
DATA_SEED = 1234
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass
class Trainer:
    """A process that makes a step when asked."""

    name: str
    process: subprocess.Popen
    cpu_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def step(self) -> None:
        """Ask for one step and note what it cost."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(b"{"):
                break
        else:
            raise SystemExit(f"{self.name} ended early; see its messages above")
        said = json.loads(line)
        self.cpu_s.append(said["cpu_s"])
        self.losses.append(said["loss"])
        self.peak_mb = said["peak_mb"]


def main() -> None:
    given = arguments()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes:
            place = Path(folder) / size
            write_task(place, *SIZES[size], given.steps)
            for dtype in given.dtypes:
                results += measure(place, size, dtype, given)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description="Compare training steps on the CPU.")
    parser.add_argument("--sizes", type=names, default=["S", "M"], help=f"of {','.join(SIZES)}")
    parser.add_argument("--dtypes", type=names, default=["fp32", "bf16"])
    parser.add_argument(
        "--trainers", type=names, default=list(TRAINERS), help="NAME, or NAME+compile for torch.compile"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--environments", type=Path, default=Path(__file__).with_name(".peers"))
    parser.add_argument(
        "--nanochat", type=Path, help="a clone of nanochat; default: ENVIRONMENTS/nanochat/source"
    )
    parser.add_argument("--json", type=Path, help="file for all numbers, of each step too")
    return parser.parse_args()


def write_task(folder: Path, config: ModelConfig, batch_seqs: int, n_steps: int) -> None:
    """Write the weights that all start from and the tokens of every step.

    Tokens are drawn by a power law, and every second one follows from the one before it: there is something
    to learn.
    """
    model = Transformer(config)
    model.init_weights(seed=0)
    save_model(model, folder / "model")
    (folder / "shape.json").write_text(json.dumps(asdict(config)))
    generator = np.random.default_rng(DATA_SEED)
    tokens = (generator.zipf(1.25, (n_steps, batch_seqs, config.seq_len + 1)) - 1) % config.vocab_size
    tokens[..., 1::2] = (tokens[..., 0:-1:2] * 7 + 3) % config.vocab_size
    np.save(folder / "tokens.npy", tokens.astype(np.int64))


def measure(folder: Path, size: str, dtype: str, given: argparse.Namespace) -> list[dict]:
    """Let all trainers of one size and dtype take turns; print and return what they took."""
    config, batch_seqs = SIZES[size]
    trainers = [start(name, folder, kind, given) for name in given.trainers for kind in kinds(name, dtype)]
    for _ in range(given.steps):
        for trainer in trainers:
            trainer.step()
    for trainer in trainers:
        trainer.process.stdin.close()
        trainer.process.wait()
    return report(trainers, size, dtype, batch_seqs * config.seq_len)


def kinds(name: str, dtype: str) -> list[str]:
    """Name the ways in which a trainer does bf16."""
    has_two = dtype == "bf16" and name.partition("+")[0] in {"transformers", "litgpt"}
    return [dtype, "bf16-weights"] if has_two else [dtype]


def start(name: str, folder: Path, dtype: str, given: argparse.Namespace) -> Trainer:
    """Start a trainer in the environment of its name."""
    base, _, more = name.partition("+")
    here = Path(__file__)
    if base == "dsllm":
        command = [sys.executable, str(here.with_name("training_dsllm.py")), str(folder)]
    else:
        python = given.environments / base / "bin" / "python"
        command = [str(python), str(here.with_name("training_peers.py")), base, str(folder)]
    command += ["--dtype", dtype, *(["--compile"] if more else [])]
    source = given.nanochat or given.environments / "nanochat" / "source"
    environment = {**os.environ, **ONE_THREAD, "NANOCHAT_SOURCE": str(source)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    return Trainer(f"{name} {dtype}" if dtype == "bf16-weights" else name, process)


def report(trainers: list[Trainer], size: str, dtype: str, n_tokens: int) -> list[dict]:
    """Print the table of one size and dtype."""
    ours = trainers[0]
    theirs = next((t.losses[-1] for t in trainers if t.name == "transformers"), None)
    print(f"\n{size}, {dtype}, {len(ours.losses)} steps of {n_tokens:,} tokens, torch {torch.__version__}\n")
    print("| trainer | tokens/CPU s | ratio, least, largest | peak MB | loss | difference |")
    print("|---|---|---|---|---|---|")
    results = []
    for trainer in trainers:
        pairs = zip(trainer.cpu_s[N_WARM_UP_STEPS:], ours.cpu_s[N_WARM_UP_STEPS:], strict=True)
        ratios = sorted(one / other for one, other in pairs)
        rate = n_tokens / statistics.median(trainer.cpu_s[N_WARM_UP_STEPS:])
        difference = None if theirs is None else trainer.losses[-1] - theirs
        middle = statistics.median(ratios)
        print(
            f"| {trainer.name} | {rate:,.0f} | {middle:.2f}, {ratios[0]:.2f}, {ratios[-1]:.2f} "
            f"| {trainer.peak_mb:,.0f} | {trainer.losses[-1]:.6f} "
            f"| {'' if difference is None else f'{difference:+.1e}'} |",
            flush=True,
        )
        results.append({
            "trainer": trainer.name, "size": size, "dtype": dtype, "tokens_per_cpu_s": rate,
            "ratio_median": middle, "ratio_min": ratios[0], "ratio_max": ratios[-1],
            "peak_mb": trainer.peak_mb, "loss_difference": difference,
            "cpu_s": trainer.cpu_s, "losses": trainer.losses,
        })  # fmt: skip
    return results


if __name__ == "__main__":
    main()
