"""Settings of `dsllm remix`."""

import math
from dataclasses import dataclass

from dsllm.config import DocumentSettings, setting
from dsllm.errors import ConfigError

REST = "rest"


@dataclass(frozen=True, kw_only=True)
class RemixConfig(DocumentSettings):
    """What share of the output each source has, and how it is shuffled.

    A share is one of the text's bytes (UTF-8, before compression). Without weights and temperature every
    source keeps its own share.
    """

    names: tuple[str, ...] = setting(
        (), "Names of the inputs, one each, in their order; NAME=INPUT says the same."
    )
    source_field: str = setting(
        "source", "Field that names a document's source where the inputs have no names."
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
    max_epochs: float | None = setting(
        None, "How often a source may be repeated; what it then lacks goes to the others.", above=0
    )
    budget: int | None = setting(
        None, "Text of the output; without it, as much as the inputs have.", unit="bytes", min=1
    )
    shard_bytes: int = setting(64 << 20, "About how much goes into a shard.", unit="bytes", min=1)
    seed: int = setting(0, "Seed of the shuffle and of the choice of documents.", min=0, max=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.temperature is not None:
            raise ConfigError(
                f"weights are {', '.join(self.weights)}, temperature is {self.temperature}",
                hint="give --weights or --temperature, not both",
            )
        parse_weights(self.weights)


def parse_weights(weights: tuple[str, ...]) -> dict[str, float]:
    """Read `NAME=SHARE` pairs; empty when no weights are given.

    Raises:
        ConfigError: not of that form, a share below zero, a name twice, or nothing above zero.
    """
    shares: dict[str, float] = {}
    for pair in weights:
        name, _, number = pair.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not name or not 0 <= share < math.inf:
            raise ConfigError(f"weights: {pair!r} is no share", hint="try --weights en=0.6,zh=0.4")
        if name in shares:
            raise ConfigError(f"weights: {name} is given twice", hint="give each source one share")
        shares[name] = share
    if shares and not any(shares.values()):
        raise ConfigError("weights: all are zero", hint="give at least one source a share above zero")
    return shares
