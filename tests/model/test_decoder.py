import dataclasses

import pytest
import torch

from dsllm.model import products
from dsllm.model.decoder import Decoder, Part
from dsllm.model.transformer import Transformer

TOKENS = [(11 * i) % 94 + 2 for i in range(45)]


def make_model(config, backend="auto"):
    model = Transformer(config, backend=backend)
    model.init_weights(0)
    return model


def read_all(decoder, tokens, cuts):
    """Read a text in parts that end at `cuts`; the logits behind each."""
    cache = decoder.make_cache(100)
    pages = cache.take(4)
    begins = [0, *cuts[:-1]]
    parts = [Part(tokens[begin:end], begin, pages) for begin, end in zip(begins, cuts, strict=True)]
    return torch.cat([decoder.read([part], cache) for part in parts])


@pytest.mark.parametrize("layout", ["packed", "joined", "apart"])
@pytest.mark.parametrize("is_tied", [False, True], ids=["apart", "tied"])
def test_every_layout_gives_the_logits_of_the_model(tiny_config, monkeypatch, layout, is_tied):
    monkeypatch.setattr(products, "MIN_PACKED_NUMBERS", 0 if layout == "packed" else 1 << 40)
    monkeypatch.setattr(products, "MAX_COPIED_BYTES", 0 if layout == "apart" else 1 << 40)
    model = make_model(dataclasses.replace(tiny_config, tie_embeddings=is_tied), "torch")
    decoder = Decoder(model)
    assert decoder.output.is_packed == (layout == "packed")
    cuts = [1, 2, 20, 33, 34, 45]
    expected = model(torch.tensor([TOKENS]))[0, [cut - 1 for cut in cuts]]
    torch.testing.assert_close(read_all(decoder, TOKENS, cuts), expected, rtol=1e-4, atol=1e-5)  # other sums


def test_the_kernels_give_what_the_formulas_give(tiny_config):
    cuts = [20, 40, 41, 42]
    expected = read_all(Decoder(make_model(tiny_config, "torch")), TOKENS, cuts)
    actual = read_all(Decoder(make_model(tiny_config, "triton")), TOKENS, cuts)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_texts_of_all_kinds_share_a_pass(tiny_config):
    """Two that begin, one that goes on with several tokens, two with one: each as if it were alone."""
    model = make_model(tiny_config)
    decoder = Decoder(model)
    cache = decoder.make_cache(100)
    texts = [TOKENS[:7], TOKENS[5:40], TOKENS[3:20], TOKENS[10:43], TOKENS[20:22]]
    n_cached = [6, 0, 9, 32, 0]
    pages = [cache.take(2) for _ in texts]
    for text, n, own in zip(texts, n_cached, pages, strict=True):
        if n:
            decoder.read([Part(text[:n], 0, own)], cache)
    parts = [Part(text[n:], n, own) for text, n, own in zip(texts, n_cached, pages, strict=True)]
    expected = torch.stack([model(torch.tensor([text]))[0, -1] for text in texts])
    torch.testing.assert_close(decoder.read(parts, cache), expected, rtol=1e-4, atol=1e-5)


def test_bf16_stays_near_the_model(tiny_config):
    model = make_model(tiny_config).bfloat16()
    decoder = Decoder(model)
    assert decoder.make_cache(1).keys[0].dtype == torch.bfloat16
    actual = read_all(decoder, TOKENS, [20, 21, 45])
    expected = model(torch.tensor([TOKENS]))[0, [19, 20, 44]].float()
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=2**-5
    )  # logits below 2, some roundings of 2**-8
