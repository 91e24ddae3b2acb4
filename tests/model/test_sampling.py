import json
from pathlib import Path

import pytest
import torch

from dsllm.errors import ConfigError
from dsllm.model.sampling import Repeats, Sampling, choose, limit_repeats

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "repeats_transformers.json").read_text())


@pytest.mark.parametrize(
    "setting",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
        {"no_repeat_ngram": 0},
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Sampling(**{"max_new_tokens": 1, **setting})


def frequencies(probabilities, sampling, n=4000):
    logits = torch.tensor(probabilities).log().expand(n, -1)
    generators = [torch.Generator().manual_seed(i) for i in range(n)]
    return choose(logits, generators, sampling).bincount(minlength=len(probabilities)) / n


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


def limited(logits, texts, sampling):
    result = torch.tensor(logits)
    limit_repeats(result, [Repeats(text, sampling.no_repeat_ngram) for text in texts], sampling)
    return result


def test_penalty_by_hand():
    sampling = Sampling(max_new_tokens=1, repetition_penalty=2.0)
    actual = limited([[4.0, -1.0, 3.0], [4.0, -1.0, 3.0]], [[0, 1, 0], [2]], sampling)
    assert actual.tolist() == [[2.0, -2.0, 3.0], [4.0, -1.0, 1.5]]  # once, however often it was said


def test_ngrams_by_hand():
    texts = [[1, 2, 3, 1, 2], [1, 2, 0, 1, 2, 3, 1, 2], [2, 1], []]
    actual = limited([[0.0] * 4] * 4, texts, Sampling(max_new_tokens=1, no_repeat_ngram=3))
    banned = [row.isinf().nonzero().flatten().tolist() for row in actual]
    assert banned == [[3], [0, 3], [], []]
    assert limited([[0.0] * 4], [[3, 1]], Sampling(max_new_tokens=1, no_repeat_ngram=1)).isinf().tolist() == [
        [False, True, False, True]
    ]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['penalty']}-{case['ngram']}")
def test_limits_are_those_that_transformers_sets(case):
    sampling = Sampling(max_new_tokens=1, repetition_penalty=case["penalty"], no_repeat_ngram=case["ngram"])
    actual = limited(GOLDEN["logits"], GOLDEN["texts"], sampling)
    expected = torch.tensor(
        [[-torch.inf if value is None else value for value in row] for row in case["limited"]]
    )
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)  # one fp32 rounding
