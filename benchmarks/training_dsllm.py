"""dsllm's own training loop, one optimizer step for every line on stdin: what `training_peers.py` does.

    python training_dsllm.py FOLDER --dtype bf16 [--compile]

The steps are those of `dsllm pretrain`: its loop, loss, optimizer and reading of windows, checkpoints and
`metrics.jsonl` included. Only where a step's batch is asked for, it waits for its turn.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from training_peers import BETAS, EPS, GRAD_CLIP, LR_MAX, WEIGHT_DECAY, answer

from dsllm.model.hf import load_model
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.train.batches import TokenBatch, read_batch
from dsllm.train.loop import Job, LoopSettings, StepBatch, train
from dsllm.train.losses import token_loss
from dsllm.train.metrics import read_metrics
from dsllm.train.optimizer import make_optimizer
from dsllm.train.schedule import Schedule


class Rows:
    """The windows of one step."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows.astype(np.uint32)
        self.n_tokens = rows.size

    def window(self, start: int, n: int) -> np.ndarray:
        """The `n` tokens of the row that `start` belongs to."""
        return self.rows[start // (n - 1)]


class Turns:
    """Hands out a step's batch when a line comes, and reports the step before."""

    def __init__(self, tokens: np.ndarray, folder: Path) -> None:
        self.steps = [Rows(rows) for rows in tokens]
        self.batch_seqs, self.seq_len = tokens.shape[1], tokens.shape[2] - 1
        self.folder, self.started_s = folder, 0.0

    def batch(self, step: int) -> StepBatch[TokenBatch]:
        """Read the batch of `step`, once it is its turn."""
        if step:
            answer(time.process_time() - self.started_s, read_metrics(self.folder)[-1]["loss"])
        if not sys.stdin.readline():
            raise KeyboardInterrupt
        self.started_s = time.process_time()
        batch = read_batch(self.steps[step], range(self.batch_seqs), seq_len=self.seq_len)
        n_tokens = self.batch_seqs * self.seq_len
        return StepBatch(micro_batches=[batch], n_units=n_tokens, n_tokens=n_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description="dsllm's loop, a step for each line on stdin.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokens = np.load(given.folder / "tokens.npy")
    model = load_model(given.folder / "model")
    optimizer = make_optimizer(model, weight_decay=WEIGHT_DECAY, decay="all", betas=BETAS, eps=EPS)
    schedule = Schedule(name="constant", lr_max=LR_MAX, n_steps=len(tokens) + 1, warmup_steps=0)
    settings = LoopSettings(
        schedule=schedule, grad_clip=GRAD_CLIP, dtype=given.dtype, compile=given.compile, save_every_s=None
    )
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        turns = Turns(tokens, Path(folder))
        job = Job(model=model, optimizer=optimizer, batch=turns.batch, loss=token_loss)
        train(job, settings, Path(folder), ranks=Ranks(), reporter=Reporter(is_quiet=True))


if __name__ == "__main__":
    main()
