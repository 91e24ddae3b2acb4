import dataclasses

import pytest
import torch

from dsllm.errors import ConfigError, InputError
from dsllm.model.cache import KVCache
from dsllm.model.generate import Sampling, choose, generate, stream
from dsllm.model.transformer import Transformer

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [90, 3], list(range(20, 50)), [2, 2, 2]]


@pytest.fixture
def model(tiny_config, device):
    model = Transformer(tiny_config).to(device)
    model.init_weights(0)
    return model


def generators(n, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


def greedy_without_cache(model, prompt, n_new):
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_the_cache_gives_what_reading_everything_again_gives(model):
    expected = [greedy_without_cache(model, prompt, 10) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=10) == expected


def test_a_prompt_may_be_read_in_parts(model, device):
    tokens = torch.arange(3, 23, device=device)[None]
    cache = KVCache(model.config, torch.zeros(1, dtype=torch.int64, device=device), torch.float32)
    parts = torch.cat([model(part, cache=cache) for part in tokens.split([6, 1, 13], dim=1)], dim=1)
    torch.testing.assert_close(parts, model(tokens), rtol=1e-4, atol=1e-5)  # fp32 sums in other orders


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.9}, {"temperature": 1.2, "top_k": 40, "top_p": 0.9}]
)
def test_a_batch_gives_what_each_prompt_gives_alone(model, sampling):
    options = {"max_new_tokens": 12, "stop_ids": [4, 30, 31, 60], **sampling}
    seeds = [11, 12, 13, 14, 15]
    alone = [
        generate(model, [prompt], seed=[seed], **options)[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    for batch_seqs in (2, 5):
        assert generate(model, PROMPTS, seed=seeds, batch_seqs=batch_seqs, **options) == alone


def test_a_streamed_text_is_the_generated_one(model):
    sampling = Sampling(max_new_tokens=9, temperature=1.0)
    expected = generate(model, [PROMPTS[1]], max_new_tokens=9, temperature=1.0, seed=3)[0]
    assert list(stream(model, PROMPTS[1], sampling, seed=3)) == expected


def test_draws_follow_the_seed_and_equal_prompts_get_different_texts(model):
    options = {"max_new_tokens": 12, "temperature": 1.5}
    first = generate(model, [[5]] * 3, seed=0, **options)
    assert generate(model, [[5]] * 3, seed=0, **options) == first
    assert generate(model, [[5]] * 3, seed=1, **options) != first
    assert first[0] != first[1] != first[2]


def test_a_text_ends_with_its_stopping_token(model):
    whole = generate(model, [[5]], max_new_tokens=20)[0]
    stop = whole[6]
    stopped = generate(model, [[5]], max_new_tokens=20, stop_ids=[stop])[0]
    assert stopped == whole[: whole.index(stop) + 1]


def test_a_text_ends_at_the_models_length(model):
    lengths = [1, 40, 47, 48]  # of 48
    texts = generate(model, [[5] * n for n in lengths], max_new_tokens=100)
    assert [len(text) for text in texts] == [47, 8, 1, 1]


def test_no_prompts_give_no_texts(model):
    assert generate(model, [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 is empty"),
        ([5] * 49, "prompt 1 has 49 tokens, but the model reads 48"),
        ([3, 96], "token 96"),
    ],
    ids=["empty", "long", "strange"],
)
def test_prompts_that_cannot_be_read_are_refused(model, prompt, message):
    with pytest.raises(InputError, match=message):
        generate(model, [[5], prompt], max_new_tokens=3)


@pytest.mark.parametrize(
    "setting",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}],
    ids=str,
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Sampling(**{"max_new_tokens": 1, **setting})


def frequencies(probabilities, sampling, n=4000):
    logits = torch.tensor(probabilities).log().expand(n, -1)
    return choose(logits, generators(n), sampling).bincount(minlength=len(probabilities)) / n


def test_draws_have_the_probabilities_of_the_softmax():
    sampling = Sampling(max_new_tokens=1, temperature=1.0)
    actual = frequencies([0.1, 0.6, 0.3], sampling)
    torch.testing.assert_close(actual, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.03)  # 4 standard errors


def test_temperature_sharpens_by_hand():
    # At temperature 1/2 probabilities are squared: 1, 4 and 9 parts of 14.
    actual = frequencies([1 / 6, 2 / 6, 3 / 6], Sampling(max_new_tokens=1, temperature=0.5))
    torch.testing.assert_close(actual, torch.tensor([1, 4, 9]) / 14, rtol=0, atol=0.03)


def test_top_k_and_top_p_cut_the_tail_by_hand():
    probabilities = [0.1, 0.5, 0.05, 0.35]
    top_k = frequencies(probabilities, Sampling(max_new_tokens=1, temperature=1.0, top_k=2))
    torch.testing.assert_close(top_k, torch.tensor([0, 10 / 17, 0, 7 / 17]), rtol=0, atol=0.03)
    top_p = frequencies(probabilities, Sampling(max_new_tokens=1, temperature=1.0, top_p=0.9))
    torch.testing.assert_close(top_p, torch.tensor([2, 10, 0, 7]) / 19, rtol=0, atol=0.03)
    nearly_none = frequencies(probabilities, Sampling(max_new_tokens=1, temperature=1.0, top_p=1e-6))
    assert nearly_none.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_model_in_bf16_keeps_its_cache_in_bf16(tiny_config, device):
    model = Transformer(dataclasses.replace(tiny_config, tie_embeddings=True)).to(device)
    model.init_weights(0)
    texts = generate(model.bfloat16(), PROMPTS, max_new_tokens=5)
    assert [len(text) for text in texts] == [5] * 5
