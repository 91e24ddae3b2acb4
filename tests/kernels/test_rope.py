import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.kernels.checks import blocks
from dsllm.kernels.rope import apply_rope, rotate
from dsllm.model.rope import rope_tables


def test_rotation_is_multiplication_by_a_complex_unit(device):
    x = torch.randn(2, 6, 3, 8, generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3]], device=device)
    frequencies = torch.tensor([100.0 ** (-pair / 4) for pair in range(4)])  # base 100, 4 pairs
    units = torch.polar(torch.ones(2, 6, 1, 4), positions.cpu()[:, :, None, None] * frequencies)
    rotated = torch.complex(x[..., :4].cpu(), x[..., 4:].cpu()) * units

    actual = apply_rope(x, *rope_tables(positions, 8, 100.0)).cpu()
    torch.testing.assert_close(actual, torch.cat((rotated.real, rotated.imag), dim=-1))


def test_scores_depend_on_distances_alone(device):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 16, generator=generator).to(device) for _ in range(2))

    def score(q_position, k_position):
        tables = (rope_tables(torch.tensor([[p]], device=device), 16, 1e4) for p in (q_position, k_position))
        return torch.sum(apply_rope(q, *next(tables)) * apply_rope(k, *next(tables)))

    torch.testing.assert_close(score(3, 1), score(103, 101), rtol=1e-4, atol=1e-4)  # fp32 angles near 100


def test_angles_by_hand(device):
    # Two pairs of base 10,000: frequencies 1 and 1/100.
    cos, sin = (table.cpu() for table in rope_tables(torch.tensor([[0, 3000]], device=device), 4, 10000.0))
    expected = torch.tensor([[1.0, 1.0], [math.cos(3000), math.cos(30)]])
    torch.testing.assert_close(cos[0, :, 0], expected, rtol=0, atol=1e-5)  # an angle of 3000 in fp32
    expected = torch.tensor([[0.0, 0.0], [math.sin(3000), math.sin(30)]])
    torch.testing.assert_close(sin[0, :, 0], expected, rtol=0, atol=1e-5)


def test_bf16_is_rotated_in_fp32_and_rounded_once(device):
    x = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0)).to(device).bfloat16()
    tables = rope_tables(torch.arange(5, device=device)[None], 8, 1e4)
    assert torch.equal(apply_rope(x, *tables), apply_rope(x.float(), *tables).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("shape", "has_rows"), blocks.ROPE_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, has_rows, dtype, device):
    row = blocks.check_rope(shape, dtype, device, has_rows=has_rows)
    assert row.is_right, row


@settings(max_examples=12)
@given(
    batch=st.integers(0, 2),
    seq_len=st.integers(0, 4),
    n_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    n_pairs=st.integers(1, 9),
    has_rows=st.booleans(),
)
def test_any_shape(*, batch, seq_len, n_kv_heads, group, n_pairs, has_rows):
    shape = (batch, seq_len, n_kv_heads * group, n_kv_heads, 2 * n_pairs)
    row = blocks.check_rope(shape, torch.float32, "cpu", has_rows=has_rows)
    assert row.is_right, row


def random_heads(device):
    """Queries and keys that are parts of one projection, and the tables."""
    together = torch.randn(2, 5, 4 + 2, 8, generator=torch.Generator().manual_seed(0)).to(device)
    return together, rope_tables(torch.arange(5, device=device)[None], 8, 1e4)


def test_kernel_writes_where_queries_and_keys_lie(device):
    together, tables = random_heads(device)
    expected = apply_rope(together, *tables)
    q, k = together.split([4, 2], dim=2)
    rotated = rotate(q, k, *tables, backend="triton")
    assert [x.data_ptr() for x in rotated] == [q.data_ptr(), k.data_ptr()]
    torch.testing.assert_close(together, expected)


def test_tokens_that_share_memory_are_copied(device):
    together, tables = random_heads(device)
    q, k = together[:1, :, :4].expand(2, -1, -1, -1), together[:, :, 4:]
    expected = apply_rope(q, *tables)
    torch.testing.assert_close(rotate(q, k, *tables, backend="triton")[0], expected)


def test_who_kept_the_old_numbers_gets_an_error(device):
    together, tables = random_heads(device)
    q = together[:, :, :4].clone().requires_grad_() * 1
    squares = q.square()  # its gradient needs q
    rotate(q, together[:, :, 4:].clone(), *tables, backend="triton")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.sum().backward()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_leaves_and_shapes_that_do_not_fit_are_refused(backend, device):
    together, tables = random_heads(device)
    with pytest.raises(ValueError, match="leaf"):
        rotate(together.clone().requires_grad_(), together, *tables, backend=backend)
    with pytest.raises(ValueError, match="k is"):
        rotate(together, together[:, 1:], *tables, backend=backend)
    with pytest.raises(ValueError, match="cos is"):
        rotate(together[:, 1:], together[:, 1:], *tables, backend=backend)
