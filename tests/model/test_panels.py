"""Generation's compiled loops against the model itself, which makes no use of them."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from dsllm.kernels import panels
from dsllm.kernels.panels import suits_panels
from dsllm.model.config import ModelConfig
from dsllm.model.decoder import Decoder, Part
from dsllm.model.transformer import Transformer

ODD = (
    ModelConfig(  # neither d_ff nor the vocabulary fills its last panel; the heads are wider than the stream
        vocab_size=101,
        n_layers=2,
        d_model=48,
        d_ff=72,
        n_heads=6,
        n_kv_heads=2,
        head_dim=16,
        seq_len=128,
        init_std=0.1,
    )
)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # sums in another order


@pytest.fixture
def model():
    model = Transformer(ODD)
    model.init_weights(0)
    return model


def use_threads(monkeypatch, n_threads):
    monkeypatch.setattr(panels, "MIN_THREAD_PRODUCTS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)


def draw(n, seed=0):
    return torch.randint(2, 101, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def expect(model, texts):
    return torch.stack([model(torch.tensor([text]))[0, -1] for text in texts])


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_texts", [1, 4, 5, 8, 9, 16, 17])
def test_every_number_of_rows_gives_the_logits_of_the_model(model, monkeypatch, n_texts, n_threads):
    """Blocks of 4, 8 and 16 rows, full and not; then one more token each, that follows 1 to 67 others."""
    use_threads(monkeypatch, n_threads)
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    texts = [draw(2 + 11 * (index % 7), index) for index in range(n_texts)]
    pages = [cache.take(-(-len(text) // 32)) for text in texts]
    first = [Part(text[:-1], 0, own) for text, own in zip(texts, pages, strict=True)]
    torch.testing.assert_close(
        decoder.read(first, cache), expect(model, [text[:-1] for text in texts]), **TOLERANCE
    )
    second = [Part(text[-1:], len(text) - 1, own) for text, own in zip(texts, pages, strict=True)]
    torch.testing.assert_close(decoder.read(second, cache), expect(model, texts), **TOLERANCE)


def test_rows_that_do_not_stay_near_are_read_in_turns(model, monkeypatch):
    """40 rows are three blocks; a text that goes on with several tokens sees what is before them."""
    text = draw(100)
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    pages = cache.take(4)
    for begin, end in ((0, 40), (40, 97), (97, 100)):
        logits = decoder.read([Part(text[begin:end], begin, pages)], cache)
        torch.testing.assert_close(logits, expect(model, [text[:end]]), **TOLERANCE)


def test_a_text_gets_equal_bits_alone_and_among_others(model, monkeypatch):
    """Every sum of a row is taken in the same order, whatever lies beside it and whoever computes it."""
    decoder = Decoder(model)
    texts = [draw(2 + 5 * index, index) for index in range(10)]
    expected = torch.cat([decoder.read([Part(text, 0, [0, 1])], filled_cache(decoder)) for text in texts])
    use_threads(monkeypatch, 3)
    parts = [Part(text, 0, [2 * index, 2 * index + 1]) for index, text in enumerate(texts)]
    assert torch.equal(decoder.read(parts, filled_cache(decoder)), expected)


def filled_cache(decoder):
    cache = decoder.make_cache(100)
    cache.take(20)
    return cache


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_copied_page_is_read_as_if_it_were_new(model, monkeypatch, n_threads):
    """The second text begins as the first, whose page the same call fills."""
    use_threads(monkeypatch, n_threads)
    texts = [draw(20), [*draw(20)[:9], 7, 8]]
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    pages = cache.take(2)
    parts = [
        Part(texts[0], 0, pages[:1]),
        Part(texts[1][9:], 9, pages[1:], copied_page=pages[0], n_copied=9),
    ]
    torch.testing.assert_close(decoder.read(parts, cache), expect(model, texts), **TOLERANCE)


def test_scores_far_apart_do_not_vanish(model):
    """Scores of some thousands: the softmax is taken of differences, and no sum is 0 or no number."""
    with torch.no_grad():
        for block in model.layers:
            block.self_attn.q_proj.weight.mul_(100)
            block.self_attn.k_proj.weight.mul_(100)
    text = draw(60)
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    logits = decoder.read([Part(text, 0, cache.take(2))], cache)
    torch.testing.assert_close(logits, expect(model, [text]), rtol=1e-2, atol=1e-2)  # one of two near scores


def test_large_gates_open_and_shut(model):
    """Gates of some hundreds, where an exponential alone would be infinite."""
    with torch.no_grad():
        for block in model.layers:
            block.mlp.gate_proj.weight.mul_(1000)
    text = draw(30)
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    logits = decoder.read([Part(text, 0, cache.take(1))], cache)
    torch.testing.assert_close(logits, expect(model, [text]), rtol=1e-4, atol=1e-4)


def test_without_large_pages_the_weights_are_the_same(model, monkeypatch):
    expected = Decoder(model)._panels._weights[:1000].tolist()
    monkeypatch.delattr(panels.mmap, "MADV_HUGEPAGE", raising=False)
    assert Decoder(model)._panels._weights[:1000].tolist() == expected


def test_who_is_read_by_loops(model):
    assert suits_panels(torch.zeros(3, 32), 16)
    assert not suits_panels(torch.zeros(3, 24), 16)
    assert not suits_panels(torch.zeros(3, 32), 8)
    assert not suits_panels(torch.zeros(3, 32, dtype=torch.bfloat16), 16)
    assert Decoder(model)._panels is not None
    narrow = Transformer(dataclasses.replace(ODD, head_dim=8))
    narrow.init_weights(0)
    assert Decoder(narrow)._panels is None


INTERRUPTED = """
import threading
from tests.model import test_panels as tests

class Interrupted(threading.Thread):
    n_started = 0

    def start(self):
        Interrupted.n_started += 1
        if Interrupted.n_started == 2:
            raise KeyboardInterrupt
        super().start()

model = tests.Transformer(tests.ODD)
model.init_weights(0)
decoder = tests.Decoder(model)
cache = decoder.make_cache(4)
tests.panels.MIN_THREAD_PRODUCTS = 1
tests.torch.get_num_threads = lambda: 3
threading.Thread = Interrupted
decoder.read([tests.Part([1, 2, 3], 0, cache.take(1))], cache)
"""


def test_an_interrupt_while_threads_start_ends_the_program():
    """The thread that runs waits for others that never come; it must not keep the program."""
    command = [sys.executable, "-c", INTERRUPTED]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr
