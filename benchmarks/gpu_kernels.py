"""Time the kernels on a GPU beside torch, torch.compile, flash-attn and Liger, where these are installed.

Every contender's results and gradients are compared with the formula in fp64 first; a wrong one is named and
never timed. `--dry` does the same on a CPU with tiny shapes: it proves this script, not a speed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from gpu_case import Case, draw
from gpu_cases_attention import SHAPES, list_attention, list_decode
from gpu_cases_blocks import list_add_rms_norm, list_rms_norm, list_rope, list_swiglu
from gpu_cases_training import list_adamw, list_cross_entropy, list_linear_cross_entropy
from torch import Tensor
from torch._functorch import config as functorch_config

from dsllm.progress import Reporter

TOLERANCE = 2**-5  # of bf16 against fp64, relative to the largest number: eight units in the last place
LISTS = (
    list_attention,
    list_decode,
    list_rms_norm,
    list_add_rms_norm,
    list_swiglu,
    list_rope,
    list_cross_entropy,
    list_linear_cross_entropy,
    list_adamw,
)


@dataclass(frozen=True)
class Row:
    """One contender on one case; times are medians, rates are of the work that the case counts."""

    kernel: str
    shape: str
    contender: str
    worst_error: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    forward_tflop_per_s: float | None = None
    backward_tflop_per_s: float | None = None
    forward_gb_per_s: float | None = None
    backward_gb_per_s: float | None = None
    note: str = ""


def main() -> None:
    arguments = read_arguments()
    device = "cpu" if arguments.dry else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_kernels: no GPU is here; --dry runs tiny shapes on the CPU")
    functorch_config.donated_buffer = False  # what torch.compile makes is run backward several times
    document: dict[str, object] = describe(device)
    document["tuned"] = tune(device) if arguments.tune and device == "cuda" else {}
    rows: list[Row] = []
    for cases in LISTS:
        if not arguments.only or cases.__name__.removeprefix("list_") in arguments.only.split(","):
            for case in cases(device, is_dry=arguments.dry):
                rows += compete(case, device)
                torch.cuda.empty_cache()
            document["rows"] = [asdict(row) for row in rows]
            if arguments.json:
                arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    show(rows, document)
    if any(row.note.startswith("WRONG") for row in rows):
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--tune", action="store_true", help="try other block shapes of attention first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    names = ",".join(cases.__name__.removeprefix("list_") for cases in LISTS)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {names}")
    return parser.parse_args()


def describe(device: str) -> dict[str, object]:
    """Name the machine, and measure what it can do at most: the ceilings of all kernels."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__}
    if device == "cpu":
        return {"device": "CPU, dry", **versions}
    source = draw(0, (2**30,), device)  # 2 GiB
    target = torch.empty_like(source)
    copy_ms = time_ms(partial(target.copy_, source), device)
    a, b = draw(1, (8192, 8192), device), draw(2, (8192, 8192), device)
    product_ms = time_ms(lambda: a @ b, device)
    return {
        "device": torch.cuda.get_device_name(),
        **versions,
        "copy_gb_per_s": 4 * 2**30 / copy_ms / 1e6,
        "product_tflop_per_s": 2 * 8192**3 / product_ms / 1e9,
    }


def compete(case: Case, device: str) -> Iterator[Row]:
    """Check every contender on one case, then time those that are right."""
    expected = case.expected()
    rows = {name: check(case, name, expected) for name in case.contenders}
    del expected
    for name, row in rows.items():
        yield row if row.note else timed(case, name, row, device)


def check(case: Case, name: str, expected: list[Tensor]) -> Row:
    try:
        actual = case.contenders[name].results()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # not for this GPU, say
        note = (str(error).splitlines() or [type(error).__name__])[0][:80]
        return Row(case.kernel, case.shape, name, note=f"failed: {note}")
    worst = max(relative_error(a, e) for a, e in zip(actual, expected, strict=True))
    note = "" if worst <= TOLERANCE else "WRONG, so not timed"
    return Row(case.kernel, case.shape, name, worst, note=note)


def timed(case: Case, name: str, row: Row, device: str) -> Row:
    contender = case.contenders[name]
    forward_ms = time_ms(contender.prepare_forward(), device)
    backward_ms = None
    if contender.prepare_backward is not None:
        backward_ms = time_ms(contender.prepare_backward(), device)
    times = (forward_ms, backward_ms)
    flop_rates = [rate(work, ms, 1e9) for work, ms in zip(case.flops, times, strict=True)]
    byte_rates = [rate(work, ms, 1e6) for work, ms in zip(case.n_bytes, times, strict=True)]
    return Row(case.kernel, case.shape, name, row.worst_error, *times, *flop_rates, *byte_rates)


def rate(work: float, ms: float | None, unit: float) -> float | None:
    return work / ms / unit if work and ms else None


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Measure the largest difference against the largest number; what is no number makes it NaN."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)}, not {tuple(expected.shape)}"
    scale = expected.abs().max().clamp(min=1e-30)
    return float((actual.double() - expected).abs().max() / scale)


def time_ms(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(function, warmup=50, rep=200, return_mode="median"))
    begin = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - begin)


def tune(device: str) -> dict[str, dict[str, object]]:
    """Choose block shapes of attention by measurement, for this run; what was chosen, by head_dim."""
    from dsllm.kernels.attention_tune import tune_attention

    chosen: dict[str, dict[str, object]] = {}
    for batch, seq_len, n_heads, n_kv_heads, head_dim, _ in SHAPES:
        if str(head_dim) not in chosen:
            heads = (n_heads, n_kv_heads, n_kv_heads)
            tensors = [draw(n, (batch, seq_len, count, head_dim), device) for n, count in enumerate(heads)]
            launches = tune_attention(*tensors)
            chosen[str(head_dim)] = {kernel: asdict(launch) for kernel, launch in launches.items()}
    return chosen


def show(rows: list[Row], document: dict[str, object]) -> None:
    columns = ("kernel", "shape", "who", "worst error", "fwd ms", "bwd ms")
    columns += ("fwd TFLOP/s", "bwd TFLOP/s", "fwd GB/s", "bwd GB/s", "note")
    cells = [tuple("" if value is None else value for value in asdict(row).values()) for row in rows]
    Reporter().table(f"kernels on {document['device']}", columns, cells)
    if "copy_gb_per_s" in document:
        print(f"a copy: {document['copy_gb_per_s']:,.0f} GB/s; a product of 8,192 x 8,192 in bf16:", end=" ")
        print(f"{document['product_tflop_per_s']:,.0f} TFLOP/s")


if __name__ == "__main__":
    main()
