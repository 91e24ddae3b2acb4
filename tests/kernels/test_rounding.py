import torch
import triton
import triton.language as tl

from dsllm.kernels.rounding_triton import round_as

N = 4096


@triton.jit
def _round_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(out_ptr + place, round_as(tl.load(x_ptr + place), out_ptr))


def test_numbers_are_rounded_as_torch_rounds_them(device):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (N,), generator=generator).to(torch.int32)  # any float there is
    ties = torch.arange(N // 4, dtype=torch.int32) * 0x8000 + 0x3F800000  # every second is half-way
    bits[: len(ties)] = ties
    x = bits.view(torch.float32)
    x[-5:] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38])
    for dtype in (torch.bfloat16, torch.float32):
        out = torch.empty(N, dtype=dtype, device=device)
        _round_kernel[(1,)](x.to(device), out, BLOCK=N)
        torch.testing.assert_close(out.cpu(), x.to(dtype), rtol=0, atol=0, equal_nan=True)
