"""How many warps a kernel gets that does nothing but pass numbers through registers."""

import torch

MAX_WARPS = 16
MAX_THREADS = 1024


def is_amd(arch: str | None = None) -> bool:
    """Say whether `arch`, such as "gfx942", is AMD's; None: whether this torch was built for AMD."""
    return torch.version.hip is not None if arch is None else arch.startswith("gfx")


def warps_for(
    n_numbers: int, n_per_thread: int, arch: str | None = None, *, max_warps: int = MAX_WARPS
) -> int:
    """Choose the warps of one program, up to 1,024 threads: a warp has 64 on AMD and 32 elsewhere."""
    n_threads = 64 if is_amd(arch) else 32
    return max(1, min(max_warps, MAX_THREADS // n_threads, n_numbers // (n_per_thread * n_threads)))
