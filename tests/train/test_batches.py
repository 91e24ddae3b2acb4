import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsllm.train.batches import (
    count_windows,
    cut_micro,
    iterate_windows,
    number_documents,
    permute,
    rank_part,
    read_batch,
    shuffled_items,
    step_windows,
)


class Stream:
    """Tokens that are their own positions."""

    def __init__(self, n_tokens):
        self.n_tokens = n_tokens

    def window(self, start, n):
        assert start >= 0
        assert start + n <= self.n_tokens
        return np.arange(start, start + n, dtype=np.uint32)


@given(n_items=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permutation_hits_every_item_once(n_items, key):
    items = permute(np.arange(n_items), n_items, key=key)
    assert sorted(items.tolist()) == list(range(n_items))


def test_permutation_scatters_neighbours():
    # 10,000 items: a shuffle moves neighbours apart by a third of the length on average, and no order remains
    items = permute(np.arange(10_000), 10_000, key=7)
    assert 3100 < np.abs(np.diff(items)).mean() < 3560  # 3333 +- 7 standard errors of about 24, rounded up
    assert abs(np.corrcoef(np.arange(10_000), items)[0, 1]) < 0.05  # 5 standard errors
    assert (items == np.arange(10_000)).sum() < 10  # fixed points: 1 expected


def test_permutation_is_fast_where_a_list_would_not_fit():
    assert permute(np.arange(10), 10**15, key=1).max() < 10**15


@given(
    n_windows=st.integers(1, 40),
    batch_seqs=st.integers(1, 50),
    seed=st.integers(0, 2**31),
    n_epochs=st.integers(1, 3),
)
def test_every_epoch_has_every_window_once(n_windows, batch_seqs, seed, n_epochs):
    n_steps = -(-n_windows * n_epochs // batch_seqs)
    drawn = np.concatenate(
        [step_windows(s, batch_seqs=batch_seqs, n_windows=n_windows, seed=seed) for s in range(n_steps)]
    )
    for epoch in range(n_epochs):
        part = drawn[epoch * n_windows : (epoch + 1) * n_windows]
        assert sorted(part.tolist()) == list(range(n_windows))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [shuffled_items(epoch * 50, 50, n_items=50, seed=seed) for epoch in (0, 1) for seed in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4


@given(start=st.integers(0, 200), n=st.integers(1, 60))
def test_walk_is_the_same_from_any_place(start, n):
    whole = shuffled_items(0, start + n, n_items=37, seed=3)
    assert shuffled_items(start, n, n_items=37, seed=3).tolist() == whole[start:].tolist()


@given(n=st.integers(0, 100), world_size=st.integers(1, 16))
def test_ranks_share_the_batch_evenly_and_in_order(n, world_size):
    parts = [rank_part(n, rank, world_size) for rank in range(world_size)]
    assert [item for part in parts for item in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(n=st.integers(1, 50), micro_batch_seqs=st.integers(1, 60))
def test_micro_batches_cut_in_order(n, micro_batch_seqs):
    cut = cut_micro(np.arange(n), micro_batch_seqs)
    assert np.concatenate(cut).tolist() == list(range(n))
    assert all(len(part) == micro_batch_seqs for part in cut[:-1])
    parts = list(iterate_windows(n, micro_batch_seqs))
    assert [window for part in parts for window in part] == list(range(n))


@given(n_tokens=st.integers(0, 500), seq_len=st.integers(1, 60))
def test_every_token_but_the_first_is_a_target_once(n_tokens, seq_len):
    n_windows = count_windows(n_tokens, seq_len)
    assert n_windows * seq_len + 1 <= max(n_tokens, 1) <= (n_windows + 1) * seq_len + (n_tokens > 0)
    if n_windows:
        batch = read_batch(Stream(n_tokens), range(n_windows), seq_len=seq_len)
        assert batch.tokens.flatten().tolist() == list(range(n_windows * seq_len))
        assert batch.labels.flatten().tolist() == list(range(1, n_windows * seq_len + 1))
        assert batch.n_labels == n_windows * seq_len
        assert batch.document_ids is None


def test_documents_are_numbered_by_hand():
    # 9 ends a document and belongs to it
    tokens = torch.tensor([[9, 1, 2, 9, 9, 3], [1, 2, 3, 4, 5, 6]])
    assert number_documents(tokens, 9).tolist() == [[0, 1, 1, 1, 2, 3], [0, 0, 0, 0, 0, 0]]


def test_batch_knows_its_documents():
    batch = read_batch(Stream(9), [1], seq_len=4, document_end=5)
    assert batch.tokens.tolist() == [[4, 5, 6, 7]]
    assert batch.document_ids.tolist() == [[0, 0, 1, 1]]


def test_reading_outside_is_an_error():
    with pytest.raises(AssertionError):
        read_batch(Stream(9), [2], seq_len=4)
