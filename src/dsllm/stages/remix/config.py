"""Settings of `dsllm remix`."""

import re
from dataclasses import dataclass
from typing import Literal

from dsllm.config import DocumentSettings, parse_bytes, parse_weights, setting
from dsllm.errors import ConfigError

REST = "rest"
SOURCE_FIELD = "source"
_TOKENS = re.compile(r"([0-9]+(?:\.[0-9]*)?)([KMBT]?)[ -]?tokens", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RemixConfig(DocumentSettings):
    """What share of the output each source has, and how it is shuffled.

    A share is one of the text's bytes (UTF-8, before compression); with a tokenizer it is one of the tokens,
    counting the one behind each document. Where nothing is asked for every source keeps its own share.
    """

    names: tuple[str, ...] = setting(
        (), "Names of the inputs, one each, in their order; NAME=INPUT says the same."
    )
    source_field: str = setting(
        SOURCE_FIELD, "Field that names a document's source where the inputs have no names."
    )
    weights: tuple[str, ...] = setting(
        (),
        "Share of each source, NAME=SHARE, scaled to add up to one; rest=SHARE is for all others together.",
    )
    temperature: float | None = setting(
        None,
        "Shares in proportion to bytes ** (1 / temperature): 1 changes nothing, more evens out.",
        above=0,
    )
    even: bool = setting(
        False, "The same share for every source, as far as max_epochs lets it: UniMax (arXiv:2304.09151)."
    )
    from_losses: tuple[str, ...] = setting(
        (),
        "Files with the losses of small runs on other mixtures, a run a line: shares are proposed by a law "
        "that is fitted to them.",
    )
    target: tuple[str, ...] = setting(
        (), "Weight of each loss of from_losses, NAME=WEIGHT; without it all count the same."
    )
    max_epochs: float | None = setting(
        None, "How often a source may be repeated; what it then lacks goes to the others.", above=0
    )
    tokenizer: str | None = setting(
        None, "Folder of the tokenizer that documents are measured by; without one, by bytes."
    )
    budget: str | None = setting(
        None, "Text of the output, 100MB or 2B-tokens; without it, as much as the inputs have."
    )
    picture: Literal["svg", "png", "none"] = setting(
        "none", "Format of a picture of shares and epochs by source, mixture.svg beside the shards."
    )
    shard_bytes: int = setting(64 << 20, "About how much goes into a shard.", unit="bytes", min=1)
    seed: int = setting(0, "Seed of the shuffle and of the choice of documents.", min=0, max=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = {
            "weights": ", ".join(self.weights),
            "temperature": self.temperature,
            "even": self.even,
            "from_losses": ", ".join(self.from_losses),
        }
        given = [(name, value) for name, value in asked.items() if value not in (None, False, "")]
        if len(given) > 1:
            (one, value), (other, other_value) = given[:2]
            raise ConfigError(
                f"{one} is {value}, {other} is {other_value}: both say what shares to reach",
                hint=f"give --{one.replace('_', '-')} or --{other.replace('_', '-')}, not both",
            )
        if self.target and not self.from_losses:
            raise ConfigError(
                f"target is {', '.join(self.target)}, but there are no losses", hint="give --from-losses FILE"
            )
        parse_weights(self.weights, "weights")
        parse_weights(self.target, "target")
        self._check_budget()

    @property
    def budget_size(self) -> int | None:
        """The budget in bytes, with a tokenizer in tokens."""
        if self.budget is None:
            return None
        if found := _TOKENS.fullmatch(self.budget.strip()):
            unit = {"": "B", "K": "kB", "M": "MB", "B": "GB", "T": "TB"}[found[2].upper()]
            return parse_bytes(found[1] + unit, flag="--budget")
        is_bare = re.fullmatch("[0-9]+", self.budget) is not None
        return parse_bytes(self.budget + "B" * is_bare, flag="--budget")

    def _check_budget(self) -> None:
        if self.budget is None or self.budget_size is None:
            return
        if self.budget_size < 1:
            raise ConfigError(f"budget is {self.budget}: nothing", hint="try --budget 100MB")
        is_tokens = _TOKENS.fullmatch(self.budget.strip()) is not None
        if is_tokens != (self.tokenizer is not None):
            unit = "tokens" if is_tokens else "bytes"
            raise ConfigError(
                f"budget is {self.budget}, {unit}, but tokenizer is {self.tokenizer}",
                hint="name the tokenizer to count by: --tokenizer FOLDER"
                if is_tokens
                else "with a tokenizer, give the budget in tokens: --budget 2B-tokens",
            )
