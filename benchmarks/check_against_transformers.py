"""Load models that dsllm wrote into transformers, and compare logits and greedy tokens.

In an environment of its own (transformers 5.23.0, torch 2.13.0, safetensors; dsllm by PYTHONPATH=src):

    python benchmarks/check_against_transformers.py MODEL...
    python benchmarks/check_against_transformers.py --golden tests/golden/model_transformers.json

MODEL is a folder that `dsllm pretrain`, `sft` or `dpo` wrote. With --golden the script makes tiny models from
a fixed seed, checks them the same way and stores what transformers gave. It prints the largest difference of
fp32 logits and ends with status 1 where one is above 1e-4.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch
import transformers

from dsllm.model.config import ModelConfig
from dsllm.model.generate import generate
from dsllm.model.hf import load_model, save_model
from dsllm.model.transformer import Transformer, initial_weight

TOLERANCE = 1e-4
MAX_GREEDY = 200  # new tokens of the texts that are compared
SEED = 7
TINY = {
    "vocab_size": 64,
    "n_layers": 3,
    "d_model": 32,
    "d_ff": 96,
    "n_heads": 4,
    "head_dim": 8,
    "seq_len": 64,
    "init_std": 0.15,
    "bos_id": 0,
    "eos_id": 1,
}
CASES = {
    "as many key heads": {"n_kv_heads": 4},
    "grouped, tied": {"n_kv_heads": 2, "tie_embeddings": True},
    "one key head, other constants": {"n_kv_heads": 1, "rope_theta": 5e5, "rms_norm_eps": 1e-5},
    "heads wider than the stream": {"n_kv_heads": 2, "head_dim": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare models of dsllm in transformers.")
    parser.add_argument("models", nargs="*", help="model folders")
    parser.add_argument("--golden", help="file to write the golden numbers to")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    worst = 0.0
    for folder in arguments.models:
        difference, _ = compare(folder, random_tokens(load_model(folder).config))
        print(f"{folder}: logits differ by {difference:.2e} at most")
        worst = max(worst, difference)
    if arguments.golden:
        cases = []
        for name, changes in CASES.items():
            difference, case = check_case(ModelConfig.build({**TINY, **changes}))
            print(f"{name}: logits differ by {difference:.2e} at most")
            worst = max(worst, difference)
            cases.append({"name": name, **case})
        write_golden(Path(arguments.golden), cases)
    if worst > TOLERANCE:
        raise SystemExit(f"above the tolerance of {TOLERANCE}")


def check_case(config: ModelConfig) -> tuple[float, dict]:
    """Make, save and compare one tiny model; both ways of reading it must agree on every weight."""
    model = Transformer(config)
    model.init_weights(SEED)
    with torch.no_grad():
        for name, gain in model.named_parameters():
            if name.endswith("norm.weight"):  # gains away from 1, so that a misplaced one shows
                gain.add_(initial_weight(f"{name}/gain", gain.shape, 0.2, SEED))
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        difference, case = compare(folder, random_tokens(config))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        theirs.save_pretrained(f"{folder}/again")
        again = load_model(f"{folder}/again")
    assert again.config == config, "transformers wrote another shape"
    for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), f"{name} changed on its way through transformers"
    return difference, {"config": config.to_dict(), **case}


def compare(folder: str, tokens: torch.Tensor) -> tuple[float, dict]:
    """Compare the logits of `tokens` and a greedy text; return the largest difference and their answers."""
    ours = load_model(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = theirs(input_ids=tokens, use_cache=False).logits
        difference = (ours(tokens) - expected).abs().max().item()
    theirs.generation_config.eos_token_id = None
    prompts = [tokens[0, :6].tolist(), tokens[1, :12].tolist(), tokens[0, :1].tolist()]
    n_new = min(MAX_GREEDY, ours.config.seq_len - max(map(len, prompts)))
    texts = []
    for prompt in prompts:
        one = torch.tensor([prompt])
        text = theirs.generate(
            one, attention_mask=torch.ones_like(one), max_new_tokens=n_new, do_sample=False
        )
        texts.append(text[0, len(prompt) :].tolist())
    assert generate(ours, prompts, max_new_tokens=n_new) == texts, "greedy tokens differ"
    prompt, greedy = prompts[0], texts[0][:16]
    case = {
        "tokens": tokens.tolist(),
        "logits": round_off(expected),
        "greedy": {"prompt": prompt, "tokens": greedy},
    }
    return difference, case


def random_tokens(config: ModelConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(config.vocab_size, (2, min(12, config.seq_len)), generator=generator)


def round_off(logits: torch.Tensor) -> list:
    """Keep seven decimals: a tenth of fp32's spacing at 1, and fewer bytes."""
    return [[[round(value, 7) for value in row] for row in sequence] for sequence in logits.tolist()]


def write_golden(path: Path, cases: list[dict]) -> None:
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    made_by = "benchmarks/check_against_transformers.py --golden"
    golden = {"made_by": made_by, "versions": versions, "seed": SEED, "cases": cases}
    path.write_text(json.dumps(golden) + "\n")
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
