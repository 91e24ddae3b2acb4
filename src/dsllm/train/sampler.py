"""Which samples form which step: pure functions of (seed, step), as for token streams.

An epoch is a walk over all records, shuffled by (seed, epoch), in batches of equal size, at most
`batch_seqs`: so no epoch ends with a batch of a few. Within a step records are sorted by length, so that a
micro-batch pads little; a loss is summed over its units and divided once, so how a step is cut does not
change it.
"""

from typing import Literal

import numpy as np

from dsllm.train.batches import Int64s, shuffled_items

MICRO_BATCH_TOKENS = 8192

Order = Literal["shuffled", "given"]


def steps_per_epoch(n_records: int, batch_seqs: int) -> int:
    """How many batches cover all records once."""
    return -(-n_records // batch_seqs)


def step_records(
    step: int, *, n_records: int, batch_seqs: int, seed: int, order: Order = "shuffled"
) -> Int64s:
    """The records of one step: a function of the seed and the step alone."""
    n_steps = steps_per_epoch(n_records, batch_seqs)
    epoch, place = divmod(step, n_steps)
    begin, end = n_records * place // n_steps, n_records * (place + 1) // n_steps
    if order == "given":
        return np.arange(begin, end, dtype=np.int64)
    return shuffled_items(epoch * n_records + begin, end - begin, n_items=n_records, seed=seed)


def cut_step(
    records: Int64s,
    costs: Int64s,
    *,
    rank: int = 0,
    world_size: int = 1,
    micro_batch_seqs: int | None = None,
) -> list[Int64s]:
    """Cut a step's records into this rank's micro-batches, like lengths together.

    Args:
        records: of the whole step.
        costs: tokens of every record that there is, padding between its parts counted.
        rank: takes every `world_size`-th of the sorted records, so that all ranks have as much to do.
        world_size: ranks in all.
        micro_batch_seqs: records at a time; None: as many as make 8,192 tokens with their padding.
    """
    falling = records[np.argsort(-costs[records], kind="stable")][rank::world_size]
    parts = []
    while len(falling):
        n_rows = micro_batch_seqs or max(1, MICRO_BATCH_TOKENS // int(costs[falling[0]]))
        parts.append(falling[:n_rows])
        falling = falling[n_rows:]
    return parts
