"""Settings of `dsllm eval`."""

import re
from dataclasses import dataclass
from typing import Literal

from dsllm.config import Settings, setting
from dsllm.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Settings):
    """What is asked of the model, and how."""

    task: tuple[str, ...] = setting(
        help="NAME=PATH: a built-in task's name, or any name, and its file or folder. May be repeated."
    )
    tokenizer: str | None = setting(None, "Tokenizer folder, instead of the model folder's own files.")
    n_shots: int | None = setting(None, "Solved examples before each question, instead of the task's.", min=0)
    limit: int | None = setting(None, "Ask only the first items of each task.", unit="items", min=1)
    chat: bool = setting(False, "Put each prompt into the chat template, as a user's message.")
    bos: Literal["tokenizer", "always", "never"] = setting(
        "tokenizer",
        "Begin each prompt with the BOS token: when the tokenizer does so by itself, always, never.",
    )
    max_length: int | None = setting(
        None,
        "Longest input; of longer ones the last tokens are kept. Not given: the model's own.",
        unit="tokens",
        min=2,
    )
    batch_tokens: int = setting(
        8192, "Tokens that go through the model at once, padding included.", unit="tokens", min=1
    )
    dtype: Literal["fp32", "bf16"] = setting("fp32", "Precision of the model.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Where the model runs.")
    shard_items: int = setting(
        256, "Items after which the answers are saved: what a killed run may lose.", unit="items", min=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ConfigError("no task is given", hint="give at least one --task NAME=PATH")
        names = [split_task(given)[0] for given in self.task]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"task {name!r} is given twice", hint="give each a name of its own: --task NAME=PATH"
                )
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"task name {name!r} cannot be part of a file name",
                    hint="use letters, digits, '_', '.' and '-' before the '='",
                )


def split_task(given: str) -> tuple[str, str | None]:
    """Split NAME=PATH; a path alone is named after its last part, a name alone has no path."""
    name, separator, path = given.partition("=")
    if separator:
        return name, path
    if "/" in given or given.endswith((".jsonl", ".json", ".csv", ".toml", ".gz", ".zst")):
        return given.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0], given
    return given, None
