from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from dsllm.model.transformer import Transformer
from dsllm.parallel.estimate import activation_bytes, estimate_run, measure_flops_per_s


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_activations_are_those_of_a_real_pass(tiny_config, dtype):
    config = replace(tiny_config, n_layers=5)
    model = Transformer(config)
    model.init_weights(0)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    context = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
    with context, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(torch.zeros(3, config.seq_len, dtype=torch.int64))
    expected = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
    assert activation_bytes(config, micro_batch_seqs=3, dtype=dtype) == pytest.approx(expected, rel=0.02)
    assert hidden.shape[0] == 3


def test_memory_of_the_7b_by_hand():
    from dsllm.model.config import MODEL_SIZES

    estimate = estimate_run(
        MODEL_SIZES["7b"], n_tokens=10**9, micro_batch_seqs=1, dtype="bf16", device=torch.device("cpu")
    )
    # 6.910e9 parameters (shared arithmetic of the released sizes): fp32 weights, gradients, two moments
    assert estimate.weight_bytes == pytest.approx(4 * 6.910e9, rel=1e-3)
    assert estimate.gradient_bytes + estimate.optimizer_bytes == 3 * estimate.weight_bytes
    # 30 layers x 4096 tokens keep more than the norms' inputs and the MLP's three products, less than 1 MB
    least = 30 * 4096 * (2 * 4 * 4096 + 3 * 2 * 11008)
    assert least < estimate.activation_bytes < 30 * 4096 * 1e6
    assert estimate.memory_bytes > 4 * estimate.weight_bytes
    assert estimate.run_s == pytest.approx(
        # 6 FLOPs a weight of the products (6.491e9 with the output projection), attention 12 n d l
        1e9 * (6 * 6.491e9 + 12 * 30 * 4096 * 4096) / estimate.flops_per_s,
        rel=1e-3,
    )


def test_rate_of_this_machine_is_plausible():
    assert 1e8 < measure_flops_per_s(torch.device("cpu"), torch.float32) < 1e15
