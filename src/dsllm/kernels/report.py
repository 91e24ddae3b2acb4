"""What each kernel takes on a GPU, read off its machine code: no GPU is needed, no speed is told."""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsllm.errors import ConfigError
from dsllm.kernels.build import Build
from dsllm.kernels.child import run_module

# Shared memory that one program may have, in bytes: NVIDIA's compute capabilities, AMD's local data share.
SHARED_LIMITS = {
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "sm_120": 99 << 10,
    "gfx942": 64 << 10,
    "gfx950": 160 << 10,
}
_TENSOR_CORE = re.compile(r"\b(HGMMA|HMMA|UTC\w*MMA|v_mfma)")


@dataclass(frozen=True)
class Resources:
    """What one program of a kernel takes, and the tensor-core instructions in its code."""

    kernel: str
    case: str
    arch: str
    n_warps: int
    n_registers: int  # of one thread
    n_spills: int  # instructions that move a register to or from memory; on AMD, registers
    shared_bytes: int
    max_shared_bytes: int
    tensor_instruction: str  # the commonest; empty where there is none
    n_tensor_instructions: int
    needs_tensor_cores: bool

    @property
    def is_sound(self) -> bool:
        """Whether nothing spills, the shared memory suffices, and the tensor cores work where they should."""
        has_tensor_cores = self.n_tensor_instructions > 0 or not self.needs_tensor_cores
        return self.n_spills == 0 and self.shared_bytes <= self.max_shared_bytes and has_tensor_cores


def run(
    arch: str = "sm_90",
    *,
    d_model: int = 4096,
    head_dim: int = 128,
    n_heads: int = 32,
    n_kv_heads: int = 32,
) -> list[Resources]:
    """Compile every kernel as a model of that shape launches it, in a process of its own; a row for each.

    Raises:
        ConfigError: a machine that is not known.
    """
    if arch not in SHARED_LIMITS:
        raise ConfigError(
            f"no kernel is compiled for {arch!r}", hint=f"try --arch {' or '.join(SHARED_LIMITS)}"
        )
    shape = [str(number) for number in (d_model, head_dim, n_heads, n_kv_heads)]
    rows = run_module("dsllm.kernels.report", [arch, *shape], interprets=False)
    return [Resources(**row) for row in rows]


def list_builds(arch: str, d_model: int, head_dim: int, n_heads: int, n_kv_heads: int) -> list[Build]:
    """List every kernel launch of a model of that shape."""
    from dsllm.kernels import attention_triton, rms_norm_triton

    attention = attention_triton.builds(arch, head_dim=head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads)
    return [*rms_norm_triton.builds(d_model), *attention]


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
    """Read what a compiled kernel takes."""
    read = _read_amd if arch.startswith("gfx") else _read_nvidia
    code, n_registers, n_spills = read(compiled)
    instructions = Counter(_TENSOR_CORE.findall(code)).most_common(1) or [("", 0)]
    return Resources(
        kernel=build.name,
        case=build.case,
        arch=arch,
        n_warps=int(compiled.metadata.num_warps),
        n_registers=n_registers,
        n_spills=n_spills,
        shared_bytes=int(compiled.metadata.shared),
        max_shared_bytes=SHARED_LIMITS[arch],
        tensor_instruction=instructions[0][0],
        n_tensor_instructions=instructions[0][1],
        needs_tensor_cores=build.uses_tensor_cores,
    )


def _read_nvidia(compiled: Any) -> tuple[str, int, int]:
    """Disassemble with the tools that Triton brings: the code, its registers, its spills."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _output([triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)])
        code = _output([triton.knobs.nvidia.nvdisasm.path, "-c", str(cubin)])
    found = re.search(r"REG:(\d+)", usage)
    assert found, f"cuobjdump names no registers: {usage}"
    return code, int(found[1]), len(re.findall(r"\b(?:STL|LDL)\b", code))


def _read_amd(compiled: Any) -> tuple[str, int, int]:
    """Read the assembler's notes: the code, its vector registers, and those of all kinds that spill."""
    code = str(compiled.asm["amdgcn"])
    n_registers = sum(int(count) for count in re.findall(r"\.vgpr_count:\s+(\d+)", code))
    n_spills = sum(int(count) for count in re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", code))
    return code, n_registers, n_spills


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _main() -> None:
    arch, *shape = sys.argv[1:]
    builds = list_builds(arch, *map(int, shape))
    rows = [asdict(read_resources(build, compile_kernel(build, arch), arch)) for build in builds]
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    _main()
