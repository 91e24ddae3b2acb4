"""Memory and time of a training run, before it starts.

Weights, gradients and AdamW's moments are counted. Activations are measured without their memory: one and two
blocks are traced with fake tensors, and what autograd keeps is added up. Time is the model's FLOPs over the
rate of a matrix product measured here for a moment, times the share of it that training reaches.
"""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsllm.kernels.cross_entropy import chunk_tokens
from dsllm.model.config import ModelConfig
from dsllm.model.flops import exact_flops_per_token, n_parameters
from dsllm.model.transformer import Transformer

EFFICIENCY = 0.5  # of the rate of a large product; measured on 2 CPU cores: 0.45 to 0.75
PROBE_S, PROBE_WIDTH, MIN_PRODUCTS = 0.3, 1024, 5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one rank needs, in bytes, and how long one rank alone would take."""

    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    logit_bytes: int
    flops_per_s: float
    run_s: float

    @property
    def memory_bytes(self) -> int:
        """All of it together."""
        parts = self.weight_bytes, self.gradient_bytes, self.optimizer_bytes, self.activation_bytes
        return sum(parts) + self.logit_bytes


def estimate_run(
    model: ModelConfig, *, n_tokens: int, micro_batch_seqs: int, dtype: str, device: torch.device
) -> Estimate:
    """Estimate a run of `n_tokens` on `device`, with fp32 weights and products in `dtype`."""
    n_weights = n_parameters(model)
    precision = torch.bfloat16 if dtype == "bf16" else torch.float32
    n_flops = n_tokens * exact_flops_per_token(model, counts_vocabulary=True)
    flops_per_s = EFFICIENCY * measure_flops_per_s(device, precision)
    head_bytes = model.vocab_size * model.d_model * (4 + precision.itemsize)  # gradient, rounded weight
    n_logits = chunk_tokens(model.vocab_size, model.d_model, precision) * model.vocab_size
    return Estimate(
        weight_bytes=4 * n_weights,
        gradient_bytes=4 * n_weights,
        optimizer_bytes=8 * n_weights,
        activation_bytes=activation_bytes(model, micro_batch_seqs=micro_batch_seqs, dtype=precision),
        logit_bytes=n_logits * (4 + 2 * precision.itemsize) + head_bytes,
        flops_per_s=flops_per_s,
        run_s=n_flops / flops_per_s,
    )


def activation_bytes(model: ModelConfig, *, micro_batch_seqs: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of one micro-batch between forward and backward, up to the final norm."""
    shallow = replace(model, vocab_size=max(model.eos_id or 0, model.bos_id or 0) + 1)
    one, two = (
        _kept_bytes(replace(shallow, n_layers=n_layers), micro_batch_seqs, dtype) for n_layers in (1, 2)
    )
    return one + (two - one) * (model.n_layers - 1)


def _kept_bytes(model: ModelConfig, micro_batch_seqs: int, dtype: torch.dtype) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    kept: dict[int, Tensor] = {}  # by storage: many views of one tensor are kept once

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode():
        network = Transformer(model)
        tokens = torch.zeros(micro_batch_seqs, model.seq_len, dtype=torch.int64)
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        context = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
        with context, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = network.hidden(tokens)
        n_bytes = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
        del result
    return n_bytes


def device_bytes(device: torch.device) -> int:
    """Memory that the device has in all: of the GPU, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure_flops_per_s(device: torch.device, dtype: torch.dtype, *, probe_s: float = PROBE_S) -> float:
    """Time products of two square matrices for a moment: the rate of the fastest."""
    left, right = (torch.randn(PROBE_WIDTH, PROBE_WIDTH, device=device).to(dtype) for _ in range(2))
    float((left @ right)[0, 0])  # the first one also sets the library up
    fastest_s, began_s, n_products = float("inf"), time.monotonic(), 0
    while time.monotonic() - began_s < probe_s or n_products < MIN_PRODUCTS:
        started_s = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for a GPU
        fastest_s = min(fastest_s, time.perf_counter() - started_s)
        n_products += 1
    return 2 * PROBE_WIDTH**3 / fastest_s
