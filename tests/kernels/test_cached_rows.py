import pytest
import torch

from dsllm.kernels import cached_rows
from dsllm.kernels.cached_rows import attend_rows, norm_rows, plan_rows, store_rows, suits_rows
from dsllm.kernels.decode_attention import decode_attention_formula, plan_pages
from dsllm.kernels.rms_norm import rms_norm_torch
from dsllm.kernels.rope import apply_rope

PAGE_TOKENS = 8
PAGES = [[5, 0, 3], [2], [5, 7, 1]]  # the first page is shared
REACHES = [range(16, 17), range(5), range(9, 23)]  # one new token, a text that begins, one that goes on
CPU = torch.device("cpu")


def make_case(n_heads, n_kv_heads, head_dim):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    keys, values = (draw(8, n_kv_heads, PAGE_TOKENS, head_dim) for _ in range(2))
    heads = draw(sum(map(len, REACHES)) + 2, n_heads + 2 * n_kv_heads, head_dim)
    angles = draw(len(heads) - 2, 1, head_dim // 2)
    return heads, keys, values, angles.cos(), angles.sin()


def read_plainly(heads, cached, turns, n_heads):
    """Rotate, store and attend token by token with the formulas."""
    (keys, values), (cos, sin) = cached, turns
    n_kv_heads = keys.shape[1]
    n_turned = n_heads + n_kv_heads
    turned = apply_rope(heads[None, : len(cos), :n_turned], cos[None], sin[None])[0]
    places = [(pages, at) for pages, reach in zip(PAGES, REACHES, strict=True) for at in reach]
    for row, (pages, at) in enumerate(places):
        place = pages[at // PAGE_TOKENS], slice(None), at % PAGE_TOKENS
        keys[place], values[place] = turned[row, n_heads:], heads[row, n_turned:]
    plan = plan_pages([pages for pages, _ in places], [at + 1 for _, at in places], PAGE_TOKENS, CPU)
    return decode_attention_formula(turned[:, :n_heads].double(), keys.double(), values.double(), plan)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("shape", [(6, 2, 64), (4, 4, 16), (9, 3, 48)], ids=str)
def test_rows_match_the_formulas(shape, n_threads, monkeypatch):
    monkeypatch.setattr(cached_rows, "MIN_SHARED_WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    heads, keys, values, cos, sin = make_case(*shape)
    expected_keys, expected_values = keys.clone(), values.clone()
    expected = read_plainly(heads.clone(), (expected_keys, expected_values), (cos, sin), shape[0])
    turns = torch.cat((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1)
    plan = plan_rows(PAGES, REACHES, PAGE_TOKENS, turns, torch.zeros(len(heads), shape[0], shape[2]))
    assert len(plan.shares) == n_threads
    store_rows(heads, keys, values, plan)
    torch.testing.assert_close(keys, expected_keys, rtol=0, atol=1e-6)  # three roundings of numbers below 4
    assert torch.equal(values, expected_values)
    actual = attend_rows(heads, keys, values, plan)
    torch.testing.assert_close(
        actual[: len(cos)].double(), expected, rtol=0, atol=5e-6
    )  # a hundred roundings
    assert not actual[len(cos) :].any()


def test_scores_far_apart_do_not_vanish():
    """Scores of 800 and -800: the exponentials are 1 and 0, and no sum is 0 or no number."""
    heads = torch.zeros(2, 3, 16)
    heads[:, 0] = 20
    keys, values = torch.zeros(1, 1, 8, 16), torch.zeros(1, 1, 8, 16)
    keys[0, 0, 0], values[0, 0, 0] = 10, 1
    heads[0, 1], heads[1, 1], heads[:, 2] = 10, -10, 3
    turns = torch.cat((torch.ones(2, 1, 16), torch.zeros(2, 1, 16)), dim=1)
    plan = plan_rows([[0]], [range(1, 3)], 8, turns, torch.zeros(2, 1, 16))
    store_rows(heads, keys, values, plan)
    actual = attend_rows(heads, keys, values, plan)
    assert actual[0].tolist() == [[2.0] * 16]  # the mean of 1 and 3
    assert actual[1].tolist() == [[2.0] * 16]  # the last weighs nothing


def test_shares_are_about_equal(monkeypatch):
    turns, mixed = torch.zeros(16, 2, 16), torch.zeros(16, 1, 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    plan = plan_rows([[0, 1]], [range(16)], 8, turns, mixed)
    assert [share.tolist() for share in plan.shares] == [[0, 16]]  # too little to be shared
    monkeypatch.setattr(cached_rows, "MIN_SHARED_WORK", 0)
    plan = plan_rows([[0, 1]], [range(16)], 8, turns, mixed)
    assert [share.tolist() for share in plan.shares] == [[0, 11], [11, 16]]  # 66 and 70 of 136 keys


def test_norm_matches_the_formula():
    generator = torch.Generator().manual_seed(0)
    x, gain = torch.randn(5, 48, generator=generator), torch.randn(48, generator=generator)
    expected = rms_norm_torch(x, gain, 1e-5)
    torch.testing.assert_close(norm_rows(x, gain, 1e-5), expected, rtol=1e-6, atol=1e-6)


def test_who_is_read_by_loops():
    assert suits_rows(torch.zeros(3, 32), 16)
    assert not suits_rows(torch.zeros(3, 24), 16)
    assert not suits_rows(torch.zeros(3, 32), 8)
    assert not suits_rows(torch.zeros(3, 32, dtype=torch.bfloat16), 16)
