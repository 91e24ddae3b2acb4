"""Other trainers, each a plain loop over one model class, one optimizer step for every line on stdin.

Called by `training_step.py` with the Python of the peer's environment; knows nothing of dsllm:

    PYTHON training_peers.py transformers FOLDER --dtype bf16 [--compile]

FOLDER holds `shape.json`, `model/` (config.json and model.safetensors, Llama's names) and `tokens.npy`,
int64, shape (n_steps, batch_seqs, seq_len + 1). A step: forward, mean cross-entropy of the next token,
backward, clip at 1.0, AdamW (fused; betas 0.9 and 0.95, weight decay 0.1 on all). Each is answered with a
line of JSON: CPU seconds of this process, the loss, and the peak of its resident set so far.

dtype: fp32; bf16 is autocast with fp32 weights; bf16-weights rounds weights, gradients and moments too.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

LR_MAX, BETAS, EPS, WEIGHT_DECAY, GRAD_CLIP = 4.2e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
DTYPES = ("fp32", "bf16", "bf16-weights")
NANOCHAT_SOURCE = "NANOCHAT_SOURCE"  # variable that names a clone, which is no package


def main() -> None:
    parser = argparse.ArgumentParser(description="One trainer, a step for each line on stdin.")
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    os.environ["NANOCHAT_DTYPE"] = "float32" if given.dtype == "fp32" else "bfloat16"

    import numpy as np
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    shape = json.loads((given.folder / "shape.json").read_bytes())
    tokens = torch.from_numpy(np.load(given.folder / "tokens.npy"))
    model, loss_of = PEERS[given.peer](shape, given.folder)
    if given.dtype == "bf16-weights":
        model.to(torch.bfloat16)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR_MAX, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
    is_mixed = given.dtype == "bf16" and given.peer != "nanochat"  # which casts by itself
    forward = torch.compile(loss_of) if given.compile else loss_of
    for step in range(tokens.shape[0]):
        if not sys.stdin.readline():
            return
        started_s = time.process_time()
        inputs, targets = tokens[step, :, :-1].contiguous(), tokens[step, :, 1:].contiguous()
        with torch.autocast("cpu", torch.bfloat16) if is_mixed else nullcontext():
            loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answer(time.process_time() - started_s, loss.item())


def answer(cpu_s: float, loss: float) -> None:
    """Report one step."""
    peak_kb = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak_kb is not None
    print(json.dumps({"cpu_s": cpu_s, "loss": loss, "peak_mb": int(peak_kb[1]) / 1024}), flush=True)


def transformers_llama(shape: dict, folder: Path) -> tuple["torch.nn.Module", Callable]:  # noqa: F821
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="sdpa", use_cache=False
    )
    return model, lambda inputs, targets: model(input_ids=inputs, labels=targets, shift_labels=targets).loss


def litgpt_gpt(shape: dict, folder: Path) -> tuple["torch.nn.Module", Callable]:  # noqa: F821
    import torch
    from litgpt import GPT, Config
    from safetensors.torch import load_file

    config = Config(
        name="bench",
        block_size=shape["seq_len"],
        n_layer=shape["n_layers"],
        n_embd=shape["d_model"],
        n_head=shape["n_heads"],
        n_query_groups=shape["n_kv_heads"],
        head_size=shape["head_dim"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=shape["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape["d_ff"],
        rope_base=int(shape["rope_theta"]),
    )
    model = GPT(config)
    model.load_state_dict(litgpt_weights(load_file(folder / "model" / "model.safetensors")))

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return model, loss_of


def litgpt_weights(weights: dict) -> dict:
    """Give Llama's weights the names that litgpt knows them by; q, k and v are one matrix there."""
    import torch

    plain = {
        "model.embed_tokens.weight": "transformer.wte.weight",
        "model.norm.weight": "transformer.ln_f.weight",
        "lm_head.weight": "lm_head.weight",
    }
    in_block = {
        "input_layernorm": "norm_1",
        "post_attention_layernorm": "norm_2",
        "self_attn.o_proj": "attn.proj",
        "mlp.gate_proj": "mlp.fc_1",
        "mlp.up_proj": "mlp.fc_2",
        "mlp.down_proj": "mlp.proj",
    }
    theirs = {}
    for name, weight in weights.items():
        if name in plain:
            theirs[plain[name]] = weight
            continue
        _, _, index, part = name.removesuffix(".weight").split(".", 3)
        if part in in_block:
            theirs[f"transformer.h.{index}.{in_block[part]}.weight"] = weight
        elif part == "self_attn.q_proj":
            others = (weights[name.replace("q_proj", other)] for other in ("k_proj", "v_proj"))
            theirs[f"transformer.h.{index}.attn.qkv.weight"] = torch.cat((weight, *others))
    return theirs


def nanochat_gpt(shape: dict, folder: Path) -> tuple["torch.nn.Module", Callable]:  # noqa: F821
    """Another function (squared ReLU, value embeddings) with weights of its own: only speeds compare."""
    sys.path.insert(0, os.environ[NANOCHAT_SOURCE])
    import torch
    from nanochat.gpt import GPT, GPTConfig

    torch.manual_seed(0)
    config = GPTConfig(
        sequence_len=shape["seq_len"],
        vocab_size=shape["vocab_size"],
        n_layer=shape["n_layers"],
        n_head=shape["n_heads"],
        n_kv_head=shape["n_kv_heads"],
        n_embd=shape["d_model"],
        window_pattern="L",
    )
    model = GPT(config)
    model.init_weights()
    return model, model


PEERS = {"transformers": transformers_llama, "litgpt": litgpt_gpt, "nanochat": nanochat_gpt}

if __name__ == "__main__":
    main()
