"""Counted pieces: against a plain counter, in any number of tables and parts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text import piece_counts, piece_counts_compiled
from dsllm.text.piece_counts import (
    N_PARTS,
    Pieces,
    PieceTable,
    Run,
    add_up,
    count_pieces,
    write_run,
)
from dsllm.text.pretokens import pre_tokens
from dsllm.text.texts import Texts


def as_dict(pieces):
    starts = pieces.texts.ends - pieces.sizes
    spans = zip(starts.tolist(), pieces.texts.ends.tolist(), pieces.counts.tolist(), strict=True)
    return {pieces.texts.data[start:end].tobytes(): count for start, end, count in spans}


def plain_counts(texts):
    pieces = Counter(piece.encode() for text in texts for piece in pre_tokens(text))
    return {piece: count for piece, count in pieces.items() if len(piece) > 1}


def joined(texts):
    return Texts.join([text.encode() for text in texts])


LONG = "a" * 17 + " " + "b" * 500 + " 你" + "好" * 40
TEXTS = st.lists(st.text(st.sampled_from("ab 你好é\n1!١") | st.characters(exclude_categories=["Cs"])))


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS)
def test_counts_are_those_of_a_counter(texts):
    assert as_dict(count_pieces([*texts, LONG, LONG])) == plain_counts([*texts, LONG, LONG])


def test_texts_not_taken_are_passed_over():
    table = PieceTable(1 << 20)
    assert table.count(joined(["one two", "three", "", "two"]), np.array([True, False, True, True]))
    assert as_dict(table.take()) == {b"one": 1, b" two": 1, b"two": 1}


def test_full_table_goes_on_when_it_was_emptied(monkeypatch):
    words = [f"{first}{second}x" for first in "abcdefghijklmnopqrst" for second in "abcdefghijklmnopqrst"]
    texts = [" ".join(words), " ".join(reversed(words))] * 3 + [LONG]
    monkeypatch.setattr(piece_counts, "_LEAST_SLOTS", 64)  # of which three quarters are used
    table = PieceTable(1)
    found, n_full = [], 0
    while not table.count(joined(texts), np.ones(len(texts), bool)):
        found.append(table.take())
        n_full += 1
    found.append(table.take())
    assert n_full > 5
    total = Counter()
    for pieces in found:
        total.update(as_dict(pieces))
    assert total == plain_counts(texts)
    assert as_dict(add_up(found)) == plain_counts(texts)


def test_runs_come_back_by_parts_in_the_order_of_hashes(tmp_path):
    texts = [f"{word} w{word}" for word in "abcdefghijklmnopqrstuvwxyz"] + [LONG]
    texts = [" ".join(a + b for b in texts) for a in texts]
    pieces = count_pieces(texts)
    assert (np.diff(pieces.hashes.astype(object)) > 0).all()
    write_run(tmp_path / "run", pieces)
    parts = [Run(tmp_path / "run").read(part) for part in range(N_PARTS)]
    for number, part in enumerate(parts):
        assert set((part.hashes >> np.uint64(56)).tolist()) <= {number}
        assert as_dict(part) == as_dict(pieces.part(number))
    back = Pieces.join(parts)
    assert as_dict(back) == plain_counts(texts)
    assert back.texts.data.tolist() == pieces.texts.data.tolist()
    doubled = add_up([pieces, back])
    assert as_dict(doubled) == {piece: 2 * count for piece, count in plain_counts(texts).items()}
    assert doubled.texts.data.tolist() == pieces.texts.data.tolist()


def test_order_does_not_depend_on_the_order_of_texts():
    texts = [f"{a}{b} {b}{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    one, other = count_pieces(texts), count_pieces(list(reversed(texts)))
    assert one.texts.data.tolist() == other.texts.data.tolist()
    assert one.counts.tolist() == other.counts.tolist()


def test_chosen_pieces_stay_in_order():
    pieces = count_pieces(["one two two three three three"])
    assert as_dict(pieces.chosen(pieces.counts > 1)) == {b" two": 2, b" three": 3}


@pytest.mark.parametrize("n_bytes", [99, 100, 101, 250])
def test_very_long_pieces_are_cut(n_bytes):
    size = piece_counts_compiled.MAX_BYTES * n_bytes // 100
    found = as_dict(count_pieces(["x" * size]))
    expected = Counter([piece_counts_compiled.MAX_BYTES] * (n_bytes // 100))
    if rest := size % piece_counts_compiled.MAX_BYTES:
        expected[rest] += 1
    assert {len(piece): count for piece, count in found.items()} == expected
