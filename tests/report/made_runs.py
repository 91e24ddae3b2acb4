"""Folders as stages leave them, written by hand."""

import json

from dsllm.io.atomic import file_sha256


def write_run(folder, stage, counts, **more):
    """Write a finished folder; `inputs` are folders (by manifest hash) or names of files."""
    folder.mkdir(parents=True)
    records = [
        {"path": "../" + given.name, "manifest_sha256": file_sha256(given / "manifest.json")}
        if hasattr(given, "name")
        else {"path": given, "sha256": "ab" * 32}
        for given in more.get("inputs", ())
    ]
    manifest = {
        "format": 1,
        "stage": stage,
        "dsllm": "0.1.0",
        "command": more.get("command", f"dsllm {stage} in -o {folder.name}"),
        "config": more.get("config", {}),
        "inputs": records,
        "content": more.get("content", {"kind": "documents"}),
        "counts": counts,
        "shards": more.get("shards", []),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = more.get("metrics", [])
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shard(name, **counts):
    return {"name": name, "n_bytes": 10, **counts, "sha256": "0" * 64}


def write_pipeline(tmp_path):
    """A whole small pipeline, its numbers made up."""
    dedup = write_run(
        tmp_path / "clean",
        "dedup",
        {"n_documents": 4000, "n_kept": 3100, "n_removed_exact": 600, "n_removed_near": 300},
        inputs=["a.jsonl", "b.jsonl"],
        shards=[
            shard("shard-00000.jsonl.zst", n_documents=3000, n_kept=2500),
            shard("shard-00001.jsonl.zst", n_documents=1000, n_kept=600),
        ],
    )
    filtered = write_run(
        tmp_path / "good",
        "filter",
        {
            "n_documents": 3100,
            "n_kept": 2481,
            "rule.too_short.n_documents": 419,
            "rule.too_short.n_bytes": 4190,
            "rule.language.n_documents": 200,
            "language.en.n_documents": 2000,
            "language.en.n_kept": 1900,
            "language.zh.n_documents": 1100,
            "language.zh.n_kept": 581,
        },
        inputs=[dedup],
    )
    source = {"n_documents": 1000, "n_written": 1200, "wanted": 0.5, "epochs": 1.2, "n_text_bytes_written": 5}
    mixed = write_run(
        tmp_path / "mix",
        "remix",
        {
            "n_written": 2612,
            "sources": {"web": source | {"before": 0.7, "reached": 0.55}, "books": source | {"before": 0.3}},
        },
        inputs=[filtered],
    )
    tokens = write_run(
        tmp_path / "tokens",
        "tokenize encode",
        {"n_documents": 2612, "n_tokens": 987654, "n_bytes": 4000000, "bytes_per_token": 4.0512},
        inputs=[mixed],
        content={"kind": "tokens", "vocab_size": 512},
    )
    metrics = [{"step": 0, "n_tokens": 0, "valid_loss": 6.2, "valid_bits_per_byte": 2.2}]
    metrics += [
        {"step": i, "n_tokens": 64 * i, "loss": 6 / i, "lr": 0.01, "grad_norm": 1.0, "tokens_per_s": 900.0}
        for i in range(1, 200)
    ]
    base = write_run(
        tmp_path / "base",
        "pretrain",
        {
            "n_parameters": 123456789,
            "n_tokens": 12800,
            "initial_valid_bits_per_byte": 2.2,
            "valid_bits_per_byte": 1.234,
        },
        inputs=[tokens],
        content={"kind": "model"},
        metrics=metrics,
    )
    tuned = write_run(
        tmp_path / "chat",
        "sft",
        {"n_samples": 77, "initial_loss": 3.0, "loss": 1.5},
        inputs=[base, "chats.jsonl"],
        content={"kind": "model"},
    )
    aligned = write_run(
        tmp_path / "aligned",
        "dpo",
        {"n_samples": 33, "reward_margin": 0.75, "reward_accuracy": 0.9, "initial_loss": 0.69, "loss": 0.4},
        inputs=[tuned, "pairs.jsonl"],
        content={"kind": "model"},
        metrics=[
            {"step": i, "loss": 0.6, "reward_chosen": 0.1, "reward_rejected": -0.2, "reward_margin": 0.3}
            for i in range(1, 9)
        ],
    )
    evals = [
        write_run(
            tmp_path / f"scores-{model.name}",
            "eval",
            {"arc": {"metric": "accuracy", "score": score, "stderr": 0.01, "n": 500}},
            inputs=[model, "arc.jsonl"],
            content={"kind": "scores"},
        )
        for model, score in ((base, 0.251), (tuned, 0.351), (aligned, 0.355))
    ]
    return [dedup, filtered, mixed, tokens, base, tuned, aligned, *evals]
