import pytest
import torch

from dsllm.kernels import check
from dsllm.kernels.attention import (
    attention,
    attention_formula,
    cached_attention,
    document_ends,
    document_lengths,
    document_starts,
)


def random_inputs(batch, seq_len, n_heads, n_kv_heads, head_dim, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, seq_len, heads, head_dim, generator=generator)
        for heads in (n_heads, n_kv_heads, n_kv_heads)
    ]


@pytest.mark.parametrize(("shape", "document_lengths"), check.ATTENTION_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, document_lengths, device):
    row = check.check_attention(shape, torch.float32, device, document_lengths=document_lengths)
    assert row.is_right, row


@pytest.mark.parametrize("document_lengths", [None, [[30, 53]]], ids=["whole", "documents"])
def test_kernel_in_bf16_matches_the_formula_in_fp64(document_lengths, device):
    shape = (1, 83, 2, 1, 32)
    row = check.check_attention(shape, torch.bfloat16, device, document_lengths=document_lengths)
    assert row.is_right, row


@pytest.mark.parametrize("document_lengths", [None, [[30, 1, 52], [83]], [[83], [83]]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_torch_path_and_its_gradients_match_the_formula_in_fp64(document_lengths, dtype, device):
    shape = (2, 83, 6, 2, 16)
    row = check.check_attention(shape, dtype, device, document_lengths=document_lengths, backend="torch")
    assert row.is_right, row


def test_formula_by_hand(device):
    # One channel, so the scale is 1. The second token's scores, 0 and ln 2, weigh its values by 1/3 and 2/3.
    q = torch.ones(1, 2, 1, 1, device=device)
    k = torch.tensor([1.0, 2.0], device=device).log().view(1, 2, 1, 1)
    v = torch.tensor([1.0, 4.0], device=device).view(1, 2, 1, 1)
    torch.testing.assert_close(attention_formula(q, k, v).flatten().cpu(), torch.tensor([1.0, 3.0]))


def test_query_heads_in_a_row_share_a_key_head(device):
    q, k, v = (x.to(device) for x in random_inputs(1, 7, 4, 2, 8))
    together = attention(q, k, v, backend="torch")
    for head in range(4):
        own = slice(head, head + 1), slice(head // 2, head // 2 + 1)
        alone = attention_formula(q[:, :, own[0]], k[:, :, own[1]], v[:, :, own[1]])
        torch.testing.assert_close(together[:, :, own[0]], alone)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_packed_documents_give_what_each_gives_alone(backend, device):
    q, k, v = (x.to(device) for x in random_inputs(1, 90, 2, 1, 16))
    ids = torch.repeat_interleave(torch.tensor([5, 5, 2, 5]), torch.tensor([20, 10, 33, 27]))[None].to(device)
    packed = attention(q, k, v, document_ids=ids, backend=backend)
    for begin, end in ((0, 30), (30, 63), (63, 90)):  # the id that returns is a new document
        alone = attention_formula(q[:, begin:end], k[:, begin:end], v[:, begin:end])
        torch.testing.assert_close(packed[:, begin:end], alone, rtol=1e-5, atol=2e-6)  # fp32, other order


def test_places_of_documents_by_hand():
    ids = torch.tensor([[4, 4, 7, 7, 7, 4], [1, 1, 1, 1, 1, 1]])
    assert document_starts(ids).tolist() == [[0, 0, 2, 2, 2, 5], [0] * 6]
    assert document_ends(ids).tolist() == [[2, 2, 5, 5, 5, 6], [6] * 6]
    assert document_lengths(ids) == [2, 3, 1, 6]


def test_new_tokens_see_cached_ones(device):
    q, k, v = (x.to(device) for x in random_inputs(2, 9, 4, 2, 8))
    is_visible = torch.arange(9) <= torch.arange(7, 9)[:, None]  # the last two tokens are new
    actual = cached_attention(q[:, 7:], k, v, is_visible.expand(2, 2, 9).to(device))
    torch.testing.assert_close(actual, attention_formula(q, k, v)[:, 7:], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("k_shape", "ids_shape"),
    [((1, 5, 2, 8), None), ((1, 4, 3, 8), None), ((1, 4, 2, 6), None), ((1, 4, 2, 8), (1, 5))],
    ids=["length", "heads", "width", "documents"],
)
def test_shapes_that_do_not_fit_are_refused(k_shape, ids_shape):
    q, k = torch.zeros(1, 4, 4, 8), torch.zeros(k_shape)
    ids = None if ids_shape is None else torch.zeros(ids_shape, dtype=torch.int64)
    with pytest.raises(ValueError):
        attention(q, k, k, document_ids=ids)


def test_short_sequences_stay_in_fp32_under_autocast():
    """Autocast would round the factors again and take the slow path."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 33, 2, 16, generator=generator).bfloat16() for _ in range(3))
    expected = attention_formula(q, k, v)  # fp32 inside, rounded once
    with torch.autocast("cpu", torch.bfloat16):
        actual = attention(q, k, v, backend="torch")
    # one rounding to bf16 of nearly equal fp32 numbers: one unit in the last place at most, and rarely that
    assert (actual != expected).float().mean() < 0.01
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=0)
