import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsllm.kernels.adamw import AdamWItem, adamw_
from dsllm.kernels.checks import adamw as checks

BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])
SHAPES = [(3, 5), (1,), (0, 2), (1030,)]


def random_items(device, dtypes, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    for dtype, shape in zip(dtypes, shapes, strict=True):
        first = torch.randn(shape, generator=generator).to(device)
        master = None if dtype == torch.float32 else first.clone()
        zeros = torch.zeros_like(first), torch.zeros_like(first)
        yield first.to(dtype), master, *zeros


def updated(backend, device, dtypes, **options):
    tensors = list(random_items(device, dtypes))
    references = [nn.Parameter((w if m is None else m).double()) for w, m, *_ in tensors]
    torchs = torch.optim.AdamW(references, lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.2)
    generator = torch.Generator().manual_seed(1)
    for update in (1, 2, 3):
        grads = [torch.randn(w.shape, generator=generator).to(device, w.dtype) for w, *_ in tensors]
        items = [
            AdamWItem(*four, grad, n_updates=update, lr=0.03, weight_decay=0.2)
            for four, grad in zip(tensors, grads, strict=True)
        ]
        adamw_(items, betas=(0.9, 0.95), eps=1e-8, backend=backend, **options)
        for reference, grad in zip(references, grads, strict=True):
            reference.grad = grad.double() * options.get("grad_factor", 1.0)
        torchs.step()
    return tensors, references


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shapes", checks.SHAPE_SETS, ids=str)
def test_kernel_matches_the_formula_in_fp64(shapes, dtype, device):
    row = checks.check_updates(shapes, dtype, device)
    assert row.is_right, row


@settings(max_examples=10)
@given(shapes=st.lists(st.lists(st.integers(0, 50), max_size=2).map(tuple), min_size=1, max_size=4))
def test_any_shapes(shapes):
    row = checks.check_updates(tuple(shapes), torch.bfloat16, "cpu")
    assert row.is_right, row


@BACKENDS
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
def test_three_updates_are_torchs(backend, dtype, device):
    factor = torch.tensor(0.5, device=device)
    tensors, references = updated(backend, device, [dtype] * 4, grad_factor=factor)
    for (weight, master, *_), reference in zip(tensors, references, strict=True):
        actual = weight if master is None else master
        torch.testing.assert_close(actual.double(), reference.detach(), rtol=1e-6, atol=1e-6)  # fp32
        assert torch.equal(weight, actual.to(dtype))


@BACKENDS
def test_dtypes_may_differ(backend, device):
    dtypes = [torch.bfloat16, torch.float32, torch.bfloat16, torch.float16]
    tensors, references = updated(backend, device, dtypes)
    for (weight, master, *_), reference in zip(tensors, references, strict=True):
        actual = weight if master is None else master
        torch.testing.assert_close(actual.double(), reference.detach(), rtol=1e-6, atol=1e-6)  # fp32


def test_updates_smaller_than_the_last_place_are_not_lost(device):
    weight = torch.ones(16, device=device).bfloat16()
    master, zeros = weight.float(), (torch.zeros(16, device=device), torch.zeros(16, device=device))
    for update in range(1, 9):  # 8 steps of 1e-3 with equal gradients: 0.992, where bf16 has 0.9922
        item = AdamWItem(weight, master, *zeros, torch.ones_like(weight), update, lr=1e-3, weight_decay=0.0)
        adamw_([item], betas=(0.9, 0.95), eps=1e-8, backend="triton")
    torch.testing.assert_close(master, torch.full_like(master, 0.992))
    assert weight.unique().tolist() == [0.9921875]


def test_nothing_to_do(device):
    adamw_([], betas=(0.9, 0.95), eps=1e-8, backend="triton")


def test_what_does_not_fit_is_refused():
    x, narrow = torch.zeros(2, 3), torch.zeros(2, 3).bfloat16()
    numbers = {"n_updates": 1, "lr": 0.1, "weight_decay": 0.0}
    with pytest.raises(ValueError, match="differ in shape"):
        AdamWItem(x, None, x, x, torch.zeros(3, 2), **numbers)
    with pytest.raises(ValueError, match="not contiguous"):
        AdamWItem(x.T, None, x.T, x.T, x.T, **numbers)
    with pytest.raises(ValueError, match="bfloat16 needs a master copy"):
        AdamWItem(narrow, None, x, x, narrow, **numbers)


def test_tensors_off_the_grid_are_refused_by_the_kernel(device):
    x = torch.zeros(9, device=device)[1:]
    item = AdamWItem(x, None, x, x, x, n_updates=1, lr=0.1, weight_decay=0.0)
    with pytest.raises(ValueError, match="16 bytes"):
        adamw_([item], betas=(0.9, 0.95), eps=1e-8, backend="triton")
