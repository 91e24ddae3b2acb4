"""The compiled loops of training on a CPU beside torch's operators: attention, norms, gates, RoPE, losses.

    python benchmarks/cpu_loops.py [--rounds 9]

One thread. In each round both go once forward and once backward over the same numbers; CPU time, the median
of rounds, and the median of the rounds' ratios. Attention also in GFLOP/s: two products forward and five
backward, half a square each.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from dsllm.kernels.attention import attention
from dsllm.kernels.cross_entropy_logits import cross_entropy_in_place
from dsllm.kernels.rms_norm import add_rms_norm, rms_norm
from dsllm.kernels.rope import rotate
from dsllm.kernels.swiglu import swiglu
from dsllm.workers.heap import keep_freed_memory

# batch, seq_len, n_heads, n_kv_heads, head_dim
ATTENTIONS = [(8, 256, 8, 4, 32), (4, 512, 8, 4, 64), (2, 1024, 8, 4, 64), (1, 2048, 8, 8, 128)]
DTYPES = ((torch.float32, ""), (torch.bfloat16, ", bf16"))
N_WARM_UPS = 2

Run = Callable[[str], Sequence[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the loops of training on a CPU.")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory(of_any_size=True)
    print("| what | dsllm, ms forward, backward | torch | torch's over dsllm's time |")
    print("|---|---|---|---|")
    for (dtype, suffix), shape in product(DTYPES, ATTENTIONS):
        batch, seq_len, n_heads, n_kv_heads, head_dim = shape
        heads_of = (n_heads, n_kv_heads, n_kv_heads)
        q, k, v = (leaf(batch, seq_len, heads, head_dim, dtype=dtype) for heads in heads_of)
        n_flops = 2 * batch * n_heads * seq_len**2 * head_dim
        name = f"attention, {batch} x {seq_len}, {n_heads} heads on {n_kv_heads}, {head_dim} channels{suffix}"
        compare(name, attention_run(q, k, v), given.rounds, n_flops)
    x, residual, gain = leaf(8, 256, 256), leaf(8, 256, 256), leaf(256)
    compare("RMSNorm, 2,048 x 256", lambda by: [rms_norm(x, gain, backend=by)], given.rounds)
    compare("the same, residual added", lambda by: add_rms_norm(x, residual, gain, backend=by), given.rounds)
    for dtype, suffix in DTYPES:
        gate, up = leaf(8, 256, 704, dtype=dtype), leaf(8, 256, 704, dtype=dtype)
        compare(f"SwiGLU, 2,048 x 704{suffix}", gate_run(gate, up), given.rounds)
        q, k = leaf(8, 256, 8, 32, dtype=dtype), leaf(8, 256, 4, 32, dtype=dtype)
        compare(f"RoPE, 2,048 x 8 and 4 x 32{suffix}", turn_run(q, k), given.rounds)
        logits, targets = leaf(512, 32_000, dtype=dtype), torch.randint(32_000, (512,))
        compare(f"cross-entropy, 512 x 32,000{suffix}", loss_run(logits, targets), given.rounds)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


def attention_run(q: Tensor, k: Tensor, v: Tensor) -> Run:
    return lambda by: [attention(q, k, v, backend=by)]


def gate_run(gate: Tensor, up: Tensor) -> Run:
    return lambda by: [swiglu(gate, up, backend=by)]


def turn_run(q: Tensor, k: Tensor) -> Run:
    cos, sin = torch.randn(2, 1, q.shape[1], 1, q.shape[3] // 2)
    return lambda by: rotate(q * 1, k * 1, cos, sin, backend=by)


def loss_run(logits: Tensor, targets: Tensor) -> Run:
    return lambda by: [cross_entropy_in_place(logits * 1, targets, backend=by)]


def compare(name: str, run: Run, n_rounds: int, n_flops: int = 0) -> None:
    """Time both, in turns, and print a row."""
    times: dict[str, list[tuple[float, float]]] = {"auto": [], "torch": []}
    for _ in range(n_rounds + N_WARM_UPS):
        for backend, found in times.items():
            found.append(time_both(run, backend))
    measured = {backend: found[N_WARM_UPS:] for backend, found in times.items()}
    middles = {
        backend: [statistics.median(column) for column in zip(*found, strict=True)]
        for backend, found in measured.items()
    }
    ratio = statistics.median(
        sum(theirs) / sum(own) for own, theirs in zip(measured["auto"], measured["torch"], strict=True)
    )
    cells = [f"{1e3 * forward:.2f}, {1e3 * backward:.2f}" for forward, backward in middles.values()]
    if n_flops:
        forward, backward = middles["auto"]
        cells[0] += f" ({n_flops / forward / 1e9:.0f}, {2.5 * n_flops / backward / 1e9:.0f} GFLOP/s)"
    print(f"| {name} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)


def time_both(run: Run, backend: str) -> tuple[float, float]:
    started_s = time.process_time()
    results = run(backend)
    between_s = time.process_time()
    torch.autograd.backward(list(results), [torch.ones_like(each) for each in results])
    return between_s - started_s, time.process_time() - between_s


if __name__ == "__main__":
    main()
