"""Which samples form which step: pure functions of (seed, step), as for token streams.

An epoch is a walk over all records, shuffled by (seed, epoch), `batch_seqs` at a time; its last batch may be
smaller. Within a step records are sorted by length, so that a micro-batch pads little; a loss is summed over
its units and divided once, so how a step is cut does not change it.
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
    step: int, *, n_records: int, batch_seqs: int, seed: int, order: Literal["shuffled", "given"] = "shuffled"
) -> Int64s:
    """The records of one step: a function of the seed and the step alone."""
    epoch, place = divmod(step, steps_per_epoch(n_records, batch_seqs))
    begin, end = place * batch_seqs, min(n_records, (place + 1) * batch_seqs)
    if order == "given":
        return np.arange(begin, end, dtype=np.int64)
    return shuffled_items(epoch * n_records + begin, end - begin, n_items=n_records, seed=seed)


def cut_step(
    records: Int64s,
    lengths: Int64s,
    *,
    rank: int,
    world_size: int,
    micro_batch_seqs: int | None,
    n_parts: int = 1,
) -> list[Int64s]:
    """Cut a step's records into this rank's micro-batches, like lengths together.

    Args:
        records: of the whole step.
        lengths: of all records, in tokens.
        rank: takes every `world_size`-th of the sorted records, so that all ranks have as much to do.
        world_size: ranks in all.
        micro_batch_seqs: records at a time; None: as many as make 8,192 tokens with their padding.
        n_parts: sequences of a record.
    """
    falling = records[np.argsort(-lengths[records], kind="stable")][rank::world_size]
    parts = []
    while len(falling):
        padded = int(lengths[falling[0]]) * n_parts
        n_rows = micro_batch_seqs or max(1, MICRO_BATCH_TOKENS // padded)
        parts.append(falling[:n_rows])
        falling = falling[n_rows:]
    return parts
