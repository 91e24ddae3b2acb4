"""How large the blocks of the attention kernels are, on which machine.

For sm_90 chosen by measuring on an H100 80GB HBM3 (benchmarks/README.md). For the others by compiling: of the
blocks that leave no register spilled and fit the shared memory, those whose inner loop gives the tensor cores
the largest share of its cycles (`dsllm kernels report`). `attention_tune` measures where someone asks for it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dsllm.kernels.build import Work

Kernel = Literal["forward", "backward of queries", "backward of keys"]
KERNELS: tuple[Kernel, ...] = ("forward", "backward of queries", "backward of keys")
MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class Launch:
    """Queries and keys that one program holds at a time, its warps, and the blocks that loads run ahead.

    With `has_descriptors`, blocks that stream past are copied by the hardware, where a head fills a block.
    """

    block_q: int
    block_k: int
    n_warps: int
    n_stages: int
    has_descriptors: bool = False

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.n_warps, "num_stages": self.n_stages}

    def takes_descriptors(self, head_dim: int) -> bool:
        """Say whether heads of `head_dim` channels stream by descriptors."""
        return self.has_descriptors and head_dim == padded(head_dim)


# By the kind of machine and the channels of a head, at most. For 16-bit numbers.
_LAUNCHES: dict[tuple[str, int], tuple[Launch, Launch, Launch]] = {  # in the order of KERNELS
    ("sm_90", 64): (Launch(64, 128, 4, 2, True), Launch(64, 64, 4, 2, True), Launch(64, 64, 4, 3, True)),
    ("sm_90", 128): (Launch(128, 128, 8, 3, True), Launch(128, 64, 8, 3, True), Launch(64, 64, 4, 2, True)),
    ("sm_90", 256): (Launch(64, 64, 4, 2, True), Launch(128, 32, 8, 2, True), Launch(32, 64, 8, 2, True)),
    ("sm_100", 64): (Launch(128, 64, 8, 3, True), Launch(128, 128, 8, 2, True), Launch(64, 128, 8, 2, True)),
    ("sm_100", 128): (Launch(128, 64, 8, 3, True), Launch(128, 64, 8, 2, True), Launch(64, 128, 8, 2, True)),
    ("sm_100", 256): (Launch(128, 32, 8, 2, True), Launch(128, 32, 8, 2, True), Launch(32, 64, 8, 2, True)),
    ("sm_80", 64): (Launch(128, 64, 8, 2), Launch(128, 32, 8, 2), Launch(64, 64, 8, 2)),
    ("sm_80", 128): (Launch(128, 64, 8, 2), Launch(64, 32, 4, 2), Launch(64, 64, 8, 2)),
    ("sm_80", 256): (Launch(64, 32, 8, 2), Launch(32, 32, 4, 2), Launch(32, 32, 8, 2)),
    ("gfx942", 64): (Launch(128, 32, 4, 2), Launch(64, 64, 4, 1), Launch(32, 128, 4, 1)),
    ("gfx942", 128): (Launch(128, 32, 4, 2), Launch(64, 32, 4, 1), Launch(32, 64, 4, 1)),
    ("gfx942", 256): (Launch(64, 32, 4, 1), Launch(64, 16, 8, 1), Launch(16, 64, 8, 1)),
}
# fp32 has no tensor cores at full precision: small blocks, in multiply-adds.
_FP32: dict[int, tuple[Launch, Launch, Launch]] = {
    64: (Launch(32, 32, 4, 2), Launch(32, 32, 4, 2), Launch(32, 32, 4, 2)),
    128: (Launch(32, 32, 4, 2), Launch(32, 32, 8, 2), Launch(16, 32, 8, 1)),
    256: (Launch(32, 16, 8, 1), Launch(16, 16, 8, 1), Launch(16, 16, 8, 1)),
}


_TUNED: dict[tuple[Kernel, str, int, torch.dtype], Launch] = {}  # measured in this process


def launch_for(kernel: Kernel, arch: str, head_dim: int, dtype: torch.dtype = torch.bfloat16) -> Launch:
    """Choose the blocks for one kernel on a machine such as "sm_90" or "gfx942"."""
    tuned = _TUNED.get((kernel, arch, padded(head_dim), dtype))
    if tuned is not None:
        return tuned
    width = next(limit for limit in (64, 128, MAX_HEAD_DIM) if head_dim <= limit)
    launches = _FP32[width] if dtype == torch.float32 else _LAUNCHES[_family(arch), width]
    return launches[KERNELS.index(kernel)]


def use_launch(kernel: Kernel, arch: str, head_dim: int, dtype: torch.dtype, launch: Launch | None) -> None:
    """Use other blocks in this process; None: the shipped ones again."""
    key = (kernel, arch, padded(head_dim), dtype)
    _TUNED.pop(key, None)
    if launch is not None:
        _TUNED[key] = launch


def _family(arch: str) -> str:
    if arch.startswith("gfx"):
        return "gfx942"
    number = int(arch.removeprefix("sm_"))
    # Consumers' Blackwell, sm_120, has the shared memory and the instructions of the older ones.
    return "sm_80" if number < 90 or number >= 120 else "sm_90" if number < 100 else "sm_100"


def arch_of(x: Tensor) -> str:
    """Name the machine that holds `x`; the interpreter plays an sm_90."""
    if not x.is_cuda:
        return "sm_90"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(x.device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(x.device)
    return f"sm_{major}{minor}"


def padded(head_dim: int) -> int:
    """Round up to what a product takes: a power of two, 16 at least."""
    return max(16, 1 << (head_dim - 1).bit_length())


def constants(head_dim: int, n_heads: int, n_kv_heads: int, launch: Launch) -> dict[str, Any]:
    """Fill the compile-time arguments that the three kernels share."""
    return {
        "SCALE": head_dim**-0.5,
        "N_HEADS": n_heads,
        "N_KV_HEADS": n_kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_Q": launch.block_q,
        "BLOCK_K": launch.block_k,
        "USES_DESCRIPTORS": launch.takes_descriptors(head_dim),
    }


def work_of(
    kernel: Kernel, launch: Launch, *, head_dim: int, n_heads: int, n_kv_heads: int, n_bytes: int
) -> Work:
    """Count what one launch computes and moves: 4 sequences of 4,096 tokens, causal, each tensor once."""
    batch, seq_len = 4, 4096
    n_products = {"forward": 2, "backward of queries": 3, "backward of keys": 4}[kernel]
    n_query_tensors = {"forward": 2, "backward of queries": 4, "backward of keys": 2}[kernel]  # q out dout dq
    n_key_tensors = {"forward": 2, "backward of queries": 2, "backward of keys": 4}[kernel]  # k v dk dv
    n_statistics = {"forward": 1, "backward of queries": 2, "backward of keys": 2}[kernel]  # log_sum delta
    heads = n_query_tensors * n_heads + n_key_tensors * n_kv_heads
    streamed = launch.block_q if kernel == "backward of keys" else launch.block_k
    return Work(
        case=f"{batch} x {seq_len:,} tokens",
        flops=n_products * batch * n_heads * seq_len * (seq_len + 1) * head_dim,
        n_bytes=batch * seq_len * (heads * head_dim * n_bytes + n_statistics * n_heads * 4),
        tile_flops=n_products * 2 * launch.block_q * launch.block_k * head_dim,
        tile_bytes=2 * streamed * head_dim * n_bytes,
    )
