"""Every kernel against its formula in fp64, values and gradients: in Triton's interpreter, or on a GPU."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from dsllm.kernels.attention import attention, attention_formula
from dsllm.kernels.backend import Backend
from dsllm.kernels.child import run_module
from dsllm.kernels.rms_norm import rms_norm

# Error allowed, relative to the largest number. fp32: a hundred roundings. bf16, whose unit is 2**-8: also
# the rounding of the softmax's weights before their product and, in the interpreter, stores that truncate.
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 2**-5}
NORM_SHAPES = ((1, 5), (3, 127), (2, 9, 256), (2, 4096))
# batch, seq_len, n_heads, n_kv_heads, head_dim; then the lengths of each row's documents.
AttentionShape = tuple[int, int, int, int, int]
ATTENTION_SHAPES: tuple[tuple[AttentionShape, list[list[int]] | None], ...] = (
    ((2, 64, 2, 2, 64), None),
    ((1, 150, 4, 2, 64), None),
    ((1, 131, 3, 1, 48), None),
    ((1, 257, 1, 1, 128), None),
    ((1, 3, 1, 1, 8), None),
    ((2, 150, 2, 1, 32), [[70, 1, 79], [150]]),
)


@dataclass(frozen=True)
class Check:
    """One kernel on one input; `worst_error` of its results and gradients, relative to the largest number."""

    kernel: str
    case: str
    worst_error: float
    tolerance: float

    @property
    def is_right(self) -> bool:
        """Whether the error is allowed; one that is no number is not."""
        return self.worst_error <= self.tolerance


def run(device: str = "cpu") -> list[Check]:
    """Check every kernel in a process of its own; "cpu" interprets, "cuda" compiles and runs on the GPU."""
    rows = run_module("dsllm.kernels.check", [device], interprets=device == "cpu")
    return [Check(**row) for row in rows]


def check_all(device: str) -> Iterator[Check]:
    """Check every kernel in this process, odd sizes and grouped heads included."""
    for dtype in TOLERANCES:
        for norm_shape in NORM_SHAPES:
            yield check_rms_norm(norm_shape, dtype, device)
        for shape, document_lengths in ATTENTION_SHAPES:
            yield check_attention(shape, dtype, device, document_lengths=document_lengths)


def check_rms_norm(shape: Sequence[int], dtype: torch.dtype, device: str) -> Check:
    """Check RMSNorm on activations of `shape`."""
    x, weight, dy = _random([shape, shape[-1:], shape], dtype, device)
    error = worst_error(
        partial(rms_norm, eps=1e-6, backend="triton"),
        partial(rms_norm, eps=1e-6, backend="torch"),
        (x, weight),
        dy,
    )
    return Check("rms_norm", f"{_by(shape)}, {_name(dtype)}", error, TOLERANCES[dtype])


def check_attention(
    shape: AttentionShape,
    dtype: torch.dtype,
    device: str,
    *,
    document_lengths: list[list[int]] | None = None,
    backend: Backend = "triton",
) -> Check:
    """Check attention: `shape` is batch, seq_len, n_heads, n_kv_heads, head_dim."""
    batch, seq_len, n_heads, n_kv_heads, head_dim = shape
    queries, keys = (batch, seq_len, n_heads, head_dim), (batch, seq_len, n_kv_heads, head_dim)
    q, k, v, dout = _random([queries, keys, keys, queries], dtype, device)
    document_ids = None
    if document_lengths is not None:
        rows = [torch.repeat_interleave(torch.tensor(lengths)) for lengths in document_lengths]
        document_ids = torch.stack(rows).to(device)
    error = worst_error(
        partial(attention, document_ids=document_ids, backend=backend),
        partial(attention_formula, document_ids=document_ids),
        (q, k, v),
        dout,
    )
    case = f"{batch} x {seq_len}, {n_heads} heads on {n_kv_heads}, {head_dim} channels, {_name(dtype)}"
    if document_lengths is not None:
        case += ", documents"
    return Check("attention", case, error, TOLERANCES[dtype])


def worst_error(
    kernel: Callable[..., Tensor], formula: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> float:
    """Compare the result and the gradients of all inputs with the formula's in fp64."""
    actual = _with_gradients(kernel, inputs, grad)
    expected = _with_gradients(formula, [x.double() for x in inputs], grad.double())
    return max(_error(a, e) for a, e in zip(actual, expected, strict=True))


def _with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


def _error(actual: Tensor, expected: Tensor) -> float:
    """Measure the largest difference against the largest number, or against 1 where all are tiny."""
    scale = expected.abs().max().clamp(min=1.0)
    return float((actual.double() - expected).abs().max() / scale)


def _random(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator).to(device, dtype) for shape in shapes]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _main() -> None:
    json.dump([asdict(check) for check in check_all(sys.argv[1])], sys.stdout)


if __name__ == "__main__":
    _main()
