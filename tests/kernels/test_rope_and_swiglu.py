import math

import torch
from torch import nn

from dsllm.kernels.rope import apply_rope
from dsllm.kernels.swiglu import swiglu
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


def test_swiglu_by_hand(device):
    # silu(ln 3) = ln 3 * 3/4; silu(0) = 0.
    gate = torch.tensor([math.log(3), 0.0], device=device)
    actual = swiglu(gate, torch.tensor([8.0, 5.0], device=device)).cpu()
    torch.testing.assert_close(actual, torch.tensor([6 * math.log(3), 0.0]))
    torch.testing.assert_close(swiglu(gate, gate), nn.SiLU()(gate) * gate)
