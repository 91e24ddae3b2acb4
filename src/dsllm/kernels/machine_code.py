"""Read a compiled kernel: registers, spills, tensor-core instructions, and the cycles of its inner loop."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TENSOR_CORE = re.compile(r"\b(HGMMA|HMMA|UTC\w*MMA|v_mfma)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_HGMMA_WIDTH = re.compile(r"HGMMA\.(?:SP\.)?64x(\d+)x")

# Cycles that one instruction of a warp keeps a pipe of its quarter of an sm_90 multiprocessor: 32 lanes over
# a fourth of the results a clock. Source: CUDA C++ programming guide, "Throughput of native arithmetic
# instructions", compute capability 9.0: 128 results a clock of fp32 additions and products, 64 of integers,
# comparisons, selections and conversions, 32 of shuffles and loads from shared memory, 16 of exp2. All
# others take only the one cycle in which any instruction is issued. HGMMA 64xNx16 takes N / 2: 4,096
# operations a clock of a multiprocessor are the data sheet's 989.4 TFLOP/s at 132 x 1.83 GHz.
_PIPES = {
    "multiply-add": (1, "FADD FMUL FFMA"),
    "integer": (2, "IMAD"),
    "compare and convert": (
        2,
        "FMNMX FSEL FSETP FSET F2FP ISETP IADD3 VIADD VIMNMX IMNMX SEL LOP3 SHF LEA PRMT PLOP3 I2FP SGXT",
    ),
    "special": (8, "MUFU F2F F2I I2F POPC"),
    "memory": (4, "SHFL LDS STS LDSM STSM LDG STG LDGSTS LD ST ATOMS RED"),
}
_PIPE_OF = {name: (pipe, cycles) for pipe, (cycles, names) in _PIPES.items() for name in names.split()}


@dataclass(frozen=True)
class InnerLoop:
    """The cycles of one turn of a loop, by the table above: an estimate, no measurement.

    Latencies, waits for memory and conflicts are left out. Both counts are of one warp's quarter.
    """

    n_instructions: int
    tensor_cycles: int
    other_cycles: int  # of the busiest pipe, issuing included
    n_products: int  # instructions for tensor cores
    n_waits: int  # for them

    @property
    def tensor_frac(self) -> float:
        """The tensor cores' share if nothing overlaps with them: what warps in step with each other get."""
        return self.tensor_cycles / (self.tensor_cycles + self.other_cycles)

    @property
    def overlapped_tensor_frac(self) -> float:
        """Their share if all else overlaps, as by warps that take turns: an upper bound."""
        return self.tensor_cycles / max(self.tensor_cycles, self.other_cycles)


@dataclass(frozen=True)
class Code:
    """What the machine code of one kernel says."""

    n_registers: int  # of one thread
    n_spills: int  # instructions that move a register to or from memory; on AMD, vector registers
    tensor_instruction: str  # the commonest; empty where there is none
    n_tensor_instructions: int
    has_block_copies: bool  # by descriptors
    inner_loop: InnerLoop | None


def read_code(compiled: Any, arch: str) -> Code:
    """Read Triton's `CompiledKernel` for a machine such as "sm_90" or "gfx942"."""
    text, n_registers, n_spills = (_read_amd if arch.startswith("gfx") else _read_nvidia)(compiled)
    instructions = Counter(_TENSOR_CORE.findall(text)).most_common(1) or [("", 0)]
    return Code(
        n_registers=n_registers,
        n_spills=n_spills,
        tensor_instruction=instructions[0][0],
        n_tensor_instructions=instructions[0][1],
        has_block_copies="UTMALDG" in text,
        inner_loop=find_inner_loop(text) if arch == "sm_90" else None,
    )


def find_inner_loop(text: str) -> InnerLoop | None:
    """Find the loop without loops inside that gives the tensor cores most: the blocks without a mask.

    Args:
        text: disassembled for sm_90.
    """
    lines = text.splitlines()
    labels = {found[1]: number for number, line in enumerate(lines) if (found := _LABEL.match(line))}
    bodies = []
    for end, line in enumerate(lines):
        found = _BRANCH.search(line)
        begin = labels.get(found[1], end) if found else end
        if begin < end and any("HGMMA" in inner for inner in lines[begin:end]):
            bodies.append((begin, end))
    innermost = [
        body
        for body in bodies
        if not any(other != body and body[0] <= other[0] and other[1] <= body[1] for other in bodies)
    ]
    loops = [_count_cycles(_shortest_way(lines[begin : end + 1])) for begin, end in innermost]
    return max(loops, key=lambda loop: loop.tensor_frac, default=None)


def _shortest_way(lines: list[str]) -> list[str]:
    """Leave out what a branch within the loop can jump over, as the mask, unless it holds products."""
    labels = {found[1]: number for number, line in enumerate(lines) if (found := _LABEL.match(line))}
    way, number = [], 0
    while number < len(lines):
        way.append(lines[number])
        found = _BRANCH.search(lines[number])
        target = labels.get(found[1], 0) if found else 0
        skips = target > number and not any("HGMMA" in line for line in lines[number:target])
        number = target if skips else number + 1
    return way


def _count_cycles(lines: list[str]) -> InnerLoop:
    instructions = [found[1] for line in lines if (found := _INSTRUCTION.match(line))]
    busy: Counter[str] = Counter()
    for instruction in instructions:
        pipe, cycles = _PIPE_OF.get(instruction.split(".")[0], ("", 0))
        busy[pipe] += cycles
    widths = [int(found[1]) for name in instructions if (found := _HGMMA_WIDTH.match(name))]
    return InnerLoop(
        n_instructions=len(instructions),
        tensor_cycles=sum(widths) // 2,
        other_cycles=max(len(instructions), *busy.values()),
        n_products=len(widths),
        n_waits=sum(name.startswith("WARPGROUP.DEPBAR") for name in instructions),
    )


def _read_nvidia(compiled: Any) -> tuple[str, int, int]:
    """Disassemble with the tools that Triton brings: the code, its registers, its spills."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _output([triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)])
        text = _output([triton.knobs.nvidia.nvdisasm.path, "-c", str(cubin)])
    found = re.search(r"REG:(\d+)", usage)
    assert found, f"cuobjdump names no registers: {usage}"
    return text, int(found[1]), len(re.findall(r"\b(?:STL|LDL)\b", text))


def _read_amd(compiled: Any) -> tuple[str, int, int]:
    """Read the assembler's notes: the code, its vector registers, and those of them that spill.

    Scalar registers that spill go to lanes of vector registers, which are counted, not to memory.
    """
    text = str(compiled.asm["amdgcn"])
    n_registers = sum(int(count) for count in re.findall(r"\.vgpr_count:\s+(\d+)", text))
    n_spills = sum(int(count) for count in re.findall(r"\.vgpr_spill_count:\s+(\d+)", text))
    return text, n_registers, n_spills


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
