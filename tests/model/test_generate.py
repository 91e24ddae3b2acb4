import dataclasses

import pytest
import torch

from dsllm.errors import InputError
from dsllm.model.generate import generate, stream
from dsllm.model.sampling import Sampling
from dsllm.model.transformer import Transformer

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [90, 3], list(range(20, 50)), [2, 2, 2]]


@pytest.fixture
def model(tiny_config, device):
    model = Transformer(tiny_config).to(device)
    model.init_weights(0)
    return model


def greedy_without_cache(model, prompt, n_new):
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_the_cache_gives_what_reading_everything_again_gives(model):
    expected = [greedy_without_cache(model, prompt, 10) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=10) == expected


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


def test_a_model_in_bf16_keeps_its_cache_in_bf16(tiny_config, device):
    model = Transformer(dataclasses.replace(tiny_config, tie_embeddings=True)).to(device)
    model.init_weights(0)
    texts = generate(model.bfloat16(), PROMPTS, max_new_tokens=5)
    assert [len(text) for text in texts] == [5] * 5
