"""How large the blocks of the attention kernels are, on which machine.

Chosen by compiling: the largest blocks that leave no register spilled and fit the shared memory.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["forward", "backward of queries", "backward of keys"]
MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class Launch:
    """Queries and keys that one program holds at a time, its warps, and the blocks that loads run ahead."""

    block_q: int
    block_k: int
    n_warps: int
    n_stages: int

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.n_warps, "num_stages": self.n_stages}


# By the kind of machine and whether a head has more than 128 channels. Keys' gradients need two accumulators,
# so there fewer queries meet more keys. For 16-bit numbers: fp32 spills.
_LAUNCHES: dict[tuple[str, bool], dict[Kernel, Launch]] = {
    ("hopper", False): {
        "forward": Launch(128, 64, 8, 3),
        "backward of queries": Launch(64, 64, 4, 2),
        "backward of keys": Launch(32, 128, 8, 3),
    },
    ("hopper", True): {
        "forward": Launch(128, 32, 8, 2),
        "backward of queries": Launch(64, 32, 8, 2),
        "backward of keys": Launch(32, 32, 8, 2),
    },
    ("ampere", False): {
        "forward": Launch(64, 64, 4, 2),
        "backward of queries": Launch(64, 32, 4, 2),
        "backward of keys": Launch(32, 64, 4, 2),
    },
    ("ampere", True): {
        "forward": Launch(64, 32, 8, 2),
        "backward of queries": Launch(32, 32, 4, 2),
        "backward of keys": Launch(32, 32, 8, 2),
    },
    ("amd", False): {
        "forward": Launch(128, 32, 4, 2),
        "backward of queries": Launch(64, 32, 4, 1),
        "backward of keys": Launch(32, 128, 8, 1),
    },
    ("amd", True): {
        "forward": Launch(64, 32, 4, 1),
        "backward of queries": Launch(64, 16, 8, 1),
        "backward of keys": Launch(16, 64, 8, 1),
    },
}


def launch_for(kernel: Kernel, arch: str, head_dim: int) -> Launch:
    """Choose the blocks for one kernel on a machine such as "sm_90" or "gfx942"."""
    if arch.startswith("gfx"):
        family = "amd"
    else:  # consumers' Blackwell, sm_120, has the shared memory and the instructions of the older ones
        family = "hopper" if 90 <= int(arch.removeprefix("sm_")) < 120 else "ampere"
    return _LAUNCHES[family, head_dim > 128][kernel]


def arch_of(x: Tensor) -> str:
    """Name the machine that holds `x`; the interpreter plays an sm_90."""
    if not x.is_cuda:
        return "sm_90"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(x.device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"sm_{major}{minor}"


def constants(head_dim: int, n_heads: int, n_kv_heads: int, launch: Launch) -> dict[str, Any]:
    """Fill the compile-time arguments that the three kernels share."""
    return {
        "SCALE": head_dim**-0.5,
        "N_HEADS": n_heads,
        "N_KV_HEADS": n_kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, 1 << (head_dim - 1).bit_length()),  # products take no fewer than 16
        "BLOCK_Q": launch.block_q,
        "BLOCK_K": launch.block_k,
    }
