"""What `dsllm kernels report` prints."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from dsllm.kernels.report import Resources, run
from dsllm.progress import Reporter


def report(archs: Sequence[str], kernels: Sequence[str], *, is_json: bool) -> bool:
    """Compile, print tables on stderr or JSON on stdout, and say whether all bars are met."""
    rows = run(archs, kernels=kernels)
    if is_json:
        listed = [{**asdict(row), "is_sound": row.is_sound} for row in rows]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
    else:
        reporter = Reporter()
        for arch in archs:
            _print_resources(arch, [row for row in rows if row.arch == arch], reporter)
        _print_bounds(rows, reporter)
        reporter.say(
            "Compiled, not run: bounds are the data sheets' peaks; the tensor cores' share is estimated"
        )
        reporter.say("from the instructions of the inner loop, with nothing and with everything overlapped.")
    return all(row.is_sound for row in rows)


def _print_resources(arch: str, rows: Sequence[Resources], reporter: Reporter) -> None:
    columns = (
        "kernel",
        "case",
        "warps",
        "registers",
        "spills",
        "shared",
        "programs",
        "limit",
        "tensor cores",
    )
    cells = [
        (
            *(row.kernel, row.case, row.n_warps, row.n_registers, row.n_spills, row.shared_bytes),
            f"{row.n_programs} x {row.n_warps}",
            row.occupancy_limit,
            f"{row.n_tensor_instructions} {row.tensor_instruction}" if row.tensor_instruction else "",
            "; ".join(row.misses) or "yes",
        )
        for row in rows
    ]
    reporter.table(
        f"{arch}: what a program takes, and programs x warps at a time", (*columns, "sound"), cells
    )


def _print_bounds(rows: Sequence[Resources], reporter: Reporter) -> None:
    columns = (
        "GPU",
        "kernel",
        "case",
        "of",
        "tile MFLOP",
        "tile KiB",
        "least us",
        "TFLOP/s",
        "bound by",
        "tensor share",
    )
    cells = [
        (
            *(bound.gpu, row.kernel, row.case, row.work_case),
            "" if row.tile_flops is None else f"{row.tile_flops / 1e6:.2f}",
            "" if row.tile_bytes is None else f"{row.tile_bytes / 1024:.0f}",
            round(bound.time_us, 1),
            round(bound.flops_per_s / 1e12, 1),
            bound.limit,
            "" if row.tensor_frac is None else f"{row.tensor_frac:.2f} to {row.overlapped_tensor_frac:.2f}",
        )
        for row in rows
        for bound in row.bounds
        if "documents" not in row.case
    ]
    if cells:
        reporter.table("The least time of a launch", columns, cells)
