"""Time the kernels on a GPU beside torch, flash-attn and Liger, where these are installed.

Every contender's results and gradients are compared with the formula in fp64 first; a wrong one is named and
never timed. `--dry` does the same on a CPU with tiny shapes: it proves this script, not a speed.

Not yet run on a GPU.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.attention import attention, attention_formula, document_lengths, visible
from dsllm.kernels.rms_norm import rms_norm, rms_norm_torch
from dsllm.progress import Reporter

TOLERANCE = 2**-5  # of bf16 against fp64, relative to the largest number: as `dsllm kernels check` allows
Contender = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One kernel on one shape: who competes, on what, and what is right."""

    kernel: str
    shape: str
    inputs: list[Tensor]
    grad: Tensor
    formula: Contender
    contenders: dict[str, Contender]
    flops: float  # of the forward pass; 0 where memory is the bound
    n_bytes: float
    # Cut inputs, results and gradients alike to what the formula can hold.
    cut: Callable[[Tensor, int], Tensor] = lambda x, _: x


@dataclass(frozen=True)
class Row:
    """One contender on one case."""

    kernel: str
    shape: str
    contender: str
    worst_error: float | None
    forward_ms: float | None
    both_ms: float | None
    tflop_per_s: float | None  # forward and backward; the backward counts 2.5 times the forward
    gb_per_s: float | None  # forward
    note: str


def main() -> None:
    arguments = read_arguments()
    device = "cpu" if arguments.dry else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_kernels: no GPU is here; --dry runs tiny shapes on the CPU")
    cases = (*list_attention(device, is_dry=arguments.dry), *list_rms_norm(device, is_dry=arguments.dry))
    launches = tune(cases) if arguments.tune and device == "cuda" else {}
    rows = [row for case in cases for row in compete(case, device)]
    name = "CPU, dry" if arguments.dry else torch.cuda.get_device_name()
    show(rows, name)
    document = {
        "device": name,
        "torch": torch.__version__,
        "tuned": launches,
        "rows": [asdict(r) for r in rows],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if any(row.note.startswith("WRONG") for row in rows):
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--tune", action="store_true", help="try other block shapes of attention first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    return parser.parse_args()


def list_attention(device: str, *, is_dry: bool) -> Iterator[Case]:
    # batch, seq_len, n_heads, n_kv_heads, head_dim, mean length of documents (0: one a row)
    shapes = [
        (4, 4096, 32, 32, 128, 0),
        (1, 16384, 32, 32, 128, 0),
        (4, 4096, 64, 8, 128, 0),
        (4, 4096, 32, 32, 128, 512),
        (8, 2048, 16, 16, 64, 0),
    ]
    if is_dry:
        shapes = [(1, 40, 2, 1, 16, 0), (1, 40, 2, 2, 16, 10)]
    for batch, seq_len, n_heads, n_kv_heads, head_dim, mean in shapes:
        heads = (n_heads, n_kv_heads, n_kv_heads, n_heads)
        *inputs, grad = (draw(index, (batch, seq_len, n, head_dim), device) for index, n in enumerate(heads))
        ids = None
        if mean:
            generator = torch.Generator().manual_seed(9)
            ids = (torch.rand(batch, seq_len, generator=generator) < 1 / mean).cumsum(dim=1).to(device)
        lengths = [seq_len] * batch if ids is None else document_lengths(ids)
        flops = 2 * n_heads * head_dim * sum(length * (length + 1) for length in lengths)
        yield Case(
            "attention",
            f"{batch} x {seq_len}, {n_heads} on {n_kv_heads} x {head_dim}" + (", documents" if mean else ""),
            inputs,
            grad,
            partial(attention_formula, document_ids=None if ids is None else ids[:1]),
            attention_contenders(ids, lengths, is_dry=is_dry),
            flops=flops,
            n_bytes=2 * sum(x.numel() for x in (*inputs, grad)),
            cut=partial(cut_heads, n_shared=n_heads // n_kv_heads, n_heads=n_heads),
        )


def attention_contenders(ids: Tensor | None, lengths: list[int], *, is_dry: bool) -> dict[str, Contender]:
    backend = "torch" if is_dry else "triton"

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = None if ids is None else visible(q.shape[1], ids, q.device)
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(
            *heads_first, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[2] != k.shape[2]
        ).transpose(1, 2)

    contenders: dict[str, Contender] = {
        "dsllm": partial(attention, document_ids=ids, backend=backend),
        "torch SDPA": sdpa,
    }
    if is_installed("flash_attn") and not is_dry:
        from flash_attn import flash_attn_func, flash_attn_varlen_func

        ends = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()

        def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            flat = (x.flatten(0, 1) for x in (q, k, v))
            longest = max(lengths)
            return flash_attn_varlen_func(*flat, ends, ends, longest, longest, causal=True).view_as(q)

        contenders["flash-attn"] = partial(flash_attn_func, causal=True) if ids is None else packed
    return contenders


def list_rms_norm(device: str, *, is_dry: bool) -> Iterator[Case]:
    for shape in [(3, 40)] if is_dry else [(16384, 4096), (16384, 8192)]:
        x, weight, grad = draw(0, shape, device), draw(1, shape[-1:], device), draw(2, shape, device)
        backend = "torch" if is_dry else "triton"
        contenders: dict[str, Contender] = {
            "dsllm": partial(rms_norm, eps=1e-6, backend=backend),
            "torch": lambda x, weight: functional.rms_norm(x, weight.shape, weight, 1e-6),
        }
        if is_installed("liger_kernel") and not is_dry:
            from liger_kernel.ops.rms_norm import LigerRMSNormFunction

            contenders["Liger"] = lambda x, weight: LigerRMSNormFunction.apply(
                x, weight, 1e-6, 0.0, "llama", False
            )  # not in place: others use the gradient too
        formula = partial(rms_norm_torch, eps=1e-6)
        shape_name = " x ".join(map(str, shape))
        yield Case("rms_norm", shape_name, [x, weight], grad, formula, contenders, 0, 4 * x.numel())


def draw(seed: int, shape: tuple[int, ...], device: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, torch.bfloat16)


def cut_heads(x: Tensor, _: int, *, n_shared: int, n_heads: int) -> Tensor:
    """Keep the last key head of the first row, and the query heads that read it: heads do not mix."""
    return x[:1, :, -(n_shared if x.shape[2] == n_heads else 1) :]


def compete(case: Case, device: str) -> Iterator[Row]:
    """Check and time each contender on one case."""
    cuts = [case.cut(x, index) for index, x in enumerate(case.inputs)]
    expected = with_gradients(case.formula, [x.double() for x in cuts], case.cut(case.grad, -1).double())
    for name, contender in case.contenders.items():
        blank = partial(Row, case.kernel, case.shape, name)
        try:
            actual = with_gradients(contender, case.inputs, case.grad)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # no memory, or not for this GPU
            yield blank(None, None, None, None, None, f"failed: {str(error).splitlines()[0][:60]}")
            continue
        pairs = zip(actual, expected, strict=True)
        worst = max(relative_error(case.cut(a, index), e) for index, (a, e) in enumerate(pairs))
        if not worst <= TOLERANCE:
            yield blank(worst, None, None, None, None, "WRONG, so not timed")
            continue
        forward_ms = time_ms(lambda run=contender: run(*case.inputs), device)
        both_ms = time_ms(lambda run=contender: with_gradients(run, case.inputs, case.grad), device)
        rate = case.flops * 3.5 / both_ms / 1e9 if case.flops else None
        yield blank(worst, forward_ms, both_ms, rate, case.n_bytes / forward_ms / 1e6, "")


def with_gradients(function: Contender, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp(min=1.0)
    return float((actual.double() - expected).abs().max() / scale)


def time_ms(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(function, warmup=100, rep=500, return_mode="median"))
    begin = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - begin)


def tune(cases: tuple[Case, ...]) -> dict[str, dict[str, object]]:
    """Choose block shapes of attention by measurement, for this run; what was chosen, by head_dim."""
    from dsllm.kernels.attention_tune import tune_attention

    chosen = {}
    for case in cases:
        head_dim = str(case.inputs[0].shape[-1])
        if case.kernel == "attention" and head_dim not in chosen:
            launches = tune_attention(*case.inputs)
            chosen[head_dim] = {kernel: asdict(launch) for kernel, launch in launches.items()}
    return chosen


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def show(rows: list[Row], device: str) -> None:
    columns = ("kernel", "shape", "who", "worst error", "forward ms", "both ms", "TFLOP/s", "GB/s", "note")
    cells = [tuple("" if value is None else value for value in asdict(row).values()) for row in rows]
    Reporter().table(f"kernels on {device}", columns, cells)


if __name__ == "__main__":
    main()
