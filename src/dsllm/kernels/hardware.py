"""What machines have: the limits that decide occupancy, and the peaks that bound a kernel's time.

Sources: for NVIDIA's multiprocessors the CUDA C++ programming guide, "Compute capabilities", and its table of
resident blocks, warps, registers and shared memory; for AMD's compute unit the CDNA 3 instruction set
reference and LLVM's AMDGPU target (`AMDGPUBaseInfo.cpp`). For the peaks each GPU's own data sheet, dense
products of bf16, at its boost clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """One multiprocessor (NVIDIA) or compute unit (AMD).

    Attributes:
        lanes: threads of a warp.
        max_warps, max_programs: that it holds at a time.
        registers: of 32 bits, of the whole unit.
        register_step: registers that a warp's share is rounded up to.
        shared_bytes: of all programs together.
        program_shared_bytes: that one program may have.
        reserved_bytes: that the system takes of the shared memory for each program.
        tensor_columns: of the tensor cores' own memory; 0 where they have none.
        n_schedulers: quarters; the warps of a program spread over them, each with its part of the registers.
    """

    lanes: int
    max_warps: int
    max_programs: int
    registers: int
    register_step: int
    shared_bytes: int
    program_shared_bytes: int
    reserved_bytes: int
    tensor_columns: int = 0
    n_schedulers: int = 4


def _nvidia(max_warps: int, max_programs: int, shared_kib: int, tensor_columns: int = 0) -> Unit:
    return Unit(
        lanes=32,
        max_warps=max_warps,
        max_programs=max_programs,
        registers=64 << 10,
        register_step=256,
        shared_bytes=shared_kib << 10,
        program_shared_bytes=shared_kib - 1 << 10,
        reserved_bytes=1 << 10,
        tensor_columns=tensor_columns,
    )


UNITS = {
    "sm_80": _nvidia(64, 32, 164),
    "sm_86": _nvidia(48, 16, 100),
    "sm_89": _nvidia(48, 24, 100),
    "sm_90": _nvidia(64, 32, 228),
    "sm_100": _nvidia(64, 32, 228, tensor_columns=512),
    "sm_120": _nvidia(48, 24, 100),
    "gfx942": Unit(64, 32, 16, 128 << 10, 512, 64 << 10, 64 << 10, 0),  # 512 vector registers a lane
    "gfx950": Unit(64, 32, 16, 128 << 10, 512, 160 << 10, 160 << 10, 0),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that can be bought, and its peaks."""

    name: str
    arch: str
    n_units: int
    flops_per_s: float  # dense products of bf16
    fp32_flops_per_s: float  # without tensor cores
    bytes_per_s: float
    source: str


GPUS = (
    Gpu("A100 SXM 80 GB", "sm_80", 108, 312e12, 19.5e12, 2039e9, "NVIDIA A100 data sheet, 2021"),
    Gpu(
        "H100 SXM",
        "sm_90",
        132,
        989.4e12,
        66.9e12,
        3350e9,
        "NVIDIA H100 data sheet, half of its sparse figure",
    ),
    Gpu(
        "H200 SXM",
        "sm_90",
        132,
        989.4e12,
        66.9e12,
        4800e9,
        "NVIDIA H200 data sheet, half of its sparse figure",
    ),
    Gpu(
        "B200",
        "sm_100",
        148,
        2250e12,
        75e12,
        8000e9,
        "NVIDIA HGX B200 data sheet, an eighth; half where sparse",
    ),
    Gpu("MI300X", "gfx942", 304, 1307.4e12, 163.4e12, 5300e9, "AMD Instinct MI300X data sheet"),
)


@dataclass(frozen=True)
class Occupancy:
    """How many programs of a kernel one unit holds, and what stops it from holding more."""

    n_programs: int
    n_warps: int
    limit: str


def occupancy(
    unit: Unit, *, n_warps: int, n_registers: int, shared_bytes: int, tensor_columns: int = 0
) -> Occupancy:
    """Count the programs that fit by registers, shared memory, warps and programs; the least decides."""
    of_a_warp = -(-n_registers * unit.lanes // unit.register_step) * unit.register_step
    warps_by_registers = unit.registers // unit.n_schedulers // max(of_a_warp, 1) * unit.n_schedulers
    limits = {
        "registers": warps_by_registers // n_warps,
        "shared memory": unit.shared_bytes // max(shared_bytes + unit.reserved_bytes, 1),
        "warps": unit.max_warps // n_warps,
        "programs": unit.max_programs,
    }
    if tensor_columns:
        limits["tensor memory"] = unit.tensor_columns // tensor_columns
    limit = min(limits, key=lambda name: limits[name])
    return Occupancy(limits[limit], limits[limit] * n_warps, limit)
