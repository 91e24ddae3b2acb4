"""What each kernel takes on a GPU, read off its machine code, and what bounds its time: no GPU is needed.

Nothing here is measured. The bound is the least time that a GPU's peaks allow; the tensor cores' share is an
estimate from the instructions of the inner loop (`machine_code`).
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from dsllm.errors import ConfigError
from dsllm.kernels.build import Build
from dsllm.kernels.child import run_module
from dsllm.kernels.hardware import GPUS, UNITS, occupancy
from dsllm.kernels.machine_code import read_code

# The tensor-core instructions that a kernel must use: a generation's own, not its predecessor's.
_OWN_INSTRUCTION = {"sm_80": "HMMA", "sm_86": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_120": "HMMA"}
MIN_TENSOR_FRAC = {"attention forward": 0.6}  # of the inner loop's cycles, heads of 128 channels, on sm_90


@dataclass(frozen=True)
class Bound:
    """The least time of one launch on one GPU, by its peak arithmetic and its memory."""

    gpu: str
    time_us: float
    flops_per_s: float  # at that time
    limit: str  # "arithmetic" or "memory"


@dataclass(frozen=True)
class Resources:
    """What one program of a kernel takes, and what its machine code and its work say of its speed.

    Attributes:
        n_registers: of one thread.
        n_spills: instructions that move a register to or from memory; on AMD, vector registers.
        shared_bytes, max_shared_bytes: of one program.
        n_programs, n_resident_warps: that one multiprocessor holds at a time.
        occupancy_limit: what stops it from holding more.
        tensor_instruction: the commonest of the tensor cores; empty where there is none.
        has_block_copies: whether blocks come by descriptors (TMA).
        tensor_frac: the tensor cores' share of the inner loop's cycles, if nothing overlaps with them: an
            estimate, on sm_90 only.
        overlapped_tensor_frac: the same if all else overlaps: an upper bound.
        work_case, flops, n_bytes, tile_flops, tile_bytes: as in `build.Work`.
        misses: the bars that this kernel misses, in words.
    """

    kernel: str
    case: str
    arch: str
    n_warps: int
    n_registers: int
    n_spills: int
    shared_bytes: int
    max_shared_bytes: int
    n_programs: int
    n_resident_warps: int
    occupancy_limit: str
    tensor_instruction: str
    n_tensor_instructions: int
    has_block_copies: bool
    tensor_frac: float | None
    overlapped_tensor_frac: float | None
    work_case: str | None
    flops: int | None
    n_bytes: int | None
    tile_flops: int | None
    tile_bytes: int | None
    bounds: list[Bound]
    misses: list[str]

    @property
    def is_sound(self) -> bool:
        """Whether no bar is missed."""
        return not self.misses


def run(archs: Sequence[str] = ("sm_90",), *, kernels: Sequence[str] = ()) -> list[Resources]:
    """Compile every kernel as shipped, for each machine in a process of its own; a row for each.

    Args:
        archs: "sm_90", "gfx942" and others.
        kernels: how their names and cases begin, as "attention forward 32 heads"; all if empty.

    Raises:
        ConfigError: a machine that is not known, or no kernel of that name.
    """
    for arch in archs:
        if arch not in UNITS:
            raise ConfigError(f"no kernel is compiled for {arch!r}", hint=f"try --arch {','.join(UNITS)}")
    n_processes = min(len(archs), os.cpu_count() or 1)
    with ThreadPoolExecutor(n_processes) as pool:
        tables = pool.map(
            lambda arch: run_module("dsllm.kernels.report", [arch, *kernels], interprets=False), archs
        )
        rows = [_resources(row) for table in tables for row in table]
    if not rows:
        raise ConfigError(
            f"no kernel is called {' or '.join(kernels)}", hint="try --kernel attention, or leave it out"
        )
    return rows


PAGE_TOKENS = 32  # of a cache, as in `model/cache.py`


def list_builds(arch: str) -> Iterator[Build]:
    """List every kernel in every shipped configuration: the paper's 7B and 67B, and other heads."""
    from dsllm.kernels import (
        adamw_triton,
        attention_triton,
        cross_entropy_logits_triton,
        decode_attention_triton,
        rms_norm_triton,
        rope_triton,
        swiglu_triton,
    )

    yield from rms_norm_triton.builds(4096, arch)
    yield from swiglu_triton.builds(11008, arch)
    yield from cross_entropy_logits_triton.builds(102400, arch)
    yield from adamw_triton.builds(arch)
    for head_dim, n_heads, n_kv_heads in ((128, 32, 32), (128, 64, 8), (64, 16, 16), (256, 16, 8)):
        yield from attention_triton.builds(arch, head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads)
        yield from rope_triton.builds(head_dim, n_heads, n_kv_heads, arch)
        yield from decode_attention_triton.builds(
            head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads, page_tokens=PAGE_TOKENS
        )


def compile_kernel(build: Build, arch: str) -> Any:
    """Compile one kernel for a machine that need not be there; Triton's `CompiledKernel`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    is_amd = arch.startswith("gfx")
    target = GPUTarget("hip", arch, 64) if is_amd else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    signature, attributes = {}, {}
    for index, name in enumerate(build.kernel.arg_names):
        if name in build.constants:
            signature[name] = "constexpr"
            continue
        signature[name], _, multiple = build.types[name].partition(":")
        if multiple or signature[name].startswith("*"):  # torch's memory is aligned
            attributes[(index,)] = [["tt.divisibility", 16]]
    constants = {name: build.constants[name] for name in signature if signature[name] == "constexpr"}
    source = ASTSource(fn=build.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=dict(build.options))


def read_resources(build: Build, compiled: Any, arch: str) -> Resources:
    """Read what a compiled kernel takes, and judge it."""
    unit, code = UNITS[arch], read_code(compiled, arch)
    n_warps, shared_bytes = int(compiled.metadata.num_warps), int(compiled.metadata.shared)
    fit = occupancy(
        unit,
        n_warps=n_warps,
        n_registers=code.n_registers,
        shared_bytes=shared_bytes,
        tensor_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
    )
    loop, work = code.inner_loop, build.work
    misses = find_misses(
        n_spills=code.n_spills,
        n_missing_bytes=shared_bytes - unit.program_shared_bytes,
        instruction=code.tensor_instruction if build.uses_tensor_cores else None,
        own_instruction=_own_instruction(arch),
        tensor_frac=None if loop is None else loop.tensor_frac,
        min_tensor_frac=_min_tensor_frac(build),
    )
    if fit.n_programs == 0:
        misses.append(f"not one program fits, by {fit.limit}")
    # Over 128 channels the sums of dk and dv alone take all registers: there nothing can run ahead.
    has_room = build.constants.get("HEAD_DIM", 0) <= 128
    if loop is not None and has_room and 2 * loop.n_waits > loop.n_products:
        misses.append("tensor cores wait after each product")
    return Resources(
        kernel=build.name,
        case=build.case,
        arch=arch,
        n_warps=n_warps,
        n_registers=code.n_registers,
        n_spills=code.n_spills,
        shared_bytes=shared_bytes,
        max_shared_bytes=unit.program_shared_bytes,
        n_programs=fit.n_programs,
        n_resident_warps=fit.n_warps,
        occupancy_limit=fit.limit,
        tensor_instruction=code.tensor_instruction,
        n_tensor_instructions=code.n_tensor_instructions,
        has_block_copies=code.has_block_copies,
        tensor_frac=None if loop is None else loop.tensor_frac,
        overlapped_tensor_frac=None if loop is None else loop.overlapped_tensor_frac,
        work_case=None if work is None else work.case,
        flops=None if work is None else work.flops,
        n_bytes=None if work is None else work.n_bytes,
        tile_flops=None if work is None else work.tile_flops,
        tile_bytes=None if work is None else work.tile_bytes,
        bounds=list_bounds(build, arch),
        misses=misses,
    )


def find_misses(
    *,
    n_spills: int,
    n_missing_bytes: int,
    instruction: str | None,
    own_instruction: str,
    tensor_frac: float | None,
    min_tensor_frac: float | None,
) -> list[str]:
    """Name the bars missed; `instruction` is None where a kernel has no products."""
    misses = []
    if n_spills:
        misses.append(f"{n_spills} spills")
    if n_missing_bytes > 0:
        misses.append(f"{n_missing_bytes:,} bytes of shared memory too many")
    if instruction is not None and not instruction.startswith(own_instruction):
        misses.append(f"{instruction or 'no tensor cores'}, not {own_instruction}")
    if min_tensor_frac is not None and tensor_frac is not None and tensor_frac < min_tensor_frac:
        misses.append(f"tensor cores busy {tensor_frac:.2f} of the time, under {min_tensor_frac}")
    return misses


def list_bounds(build: Build, arch: str) -> list[Bound]:
    """Bound one launch by the peaks of each GPU of that kind: the larger time decides."""
    bounds: list[Bound] = []
    if build.work is None:
        return bounds
    for gpu in GPUS:
        if gpu.arch == arch:
            peak = gpu.flops_per_s if build.uses_tensor_cores else gpu.fp32_flops_per_s
            times_s = {
                "arithmetic": build.work.flops / peak,
                "memory": build.work.n_bytes / gpu.bytes_per_s,
            }
            limit = max(times_s, key=lambda name: times_s[name])
            rate = build.work.flops / times_s[limit]
            bounds.append(Bound(gpu.name, times_s[limit] * 1e6, rate, limit))
    return bounds


def _own_instruction(arch: str) -> str:
    return "v_mfma" if arch.startswith("gfx") else _OWN_INSTRUCTION.get(arch, "UTC")


def _min_tensor_frac(build: Build) -> float | None:
    has_128 = build.constants.get("HEAD_DIM") == 128 and build.uses_tensor_cores
    return MIN_TENSOR_FRAC.get(build.name) if has_128 else None


def _resources(row: dict[str, Any]) -> Resources:
    return Resources(**{**row, "bounds": [Bound(**bound) for bound in row["bounds"]]})


def _main() -> None:
    arch, *kernels = sys.argv[1:]
    builds = [
        build
        for build in list_builds(arch)
        if not kernels or f"{build.name} {build.case}".startswith(tuple(kernels))
    ]
    json.dump(
        [asdict(read_resources(build, compile_kernel(build, arch), arch)) for build in builds], sys.stdout
    )


if __name__ == "__main__":
    _main()
