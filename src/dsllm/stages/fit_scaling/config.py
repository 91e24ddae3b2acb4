"""Settings of `dsllm fit-scaling fit`, `plan` and `predict`."""

import shlex
from dataclasses import dataclass
from typing import Literal

from dsllm.config import Settings, setting
from dsllm.errors import ConfigError

DEEPSEEK_BUDGETS = "1e17,3e17,1e18,3e18,1e19,3e19,1e20,3e20"


@dataclass(frozen=True, kw_only=True)
class FitConfig(Settings):
    """What `fit-scaling fit` makes out of finished runs."""

    metric: str | None = setting(
        None, "Field that runs are judged by; not given: the first of the known ones that all runs have."
    )
    near_optimal_frac: float = setting(
        0.0025, "A learning rate or batch is near-optimal when its loss exceeds the lowest by no more.", min=0
    )
    budget_frac: float = setting(
        0.1, "Runs whose compute differs by no more than this fraction are of one budget.", min=0, max=1
    )
    n_beside: int = setting(
        2, "Model scales on each side of the lowest loss that go into the parabola; 0 takes all.", min=0
    )
    n_draws: int = setting(2000, "Bootstrap draws behind each interval.", min=100)
    level: float = setting(0.95, "Share of trials in which an interval holds the truth.", min=0.5, max=0.999)
    seed: int = setting(0, "Seed of the bootstrap.", min=0)
    pictures: Literal["svg", "png", "none"] = setting("svg", "Format of the pictures.")


@dataclass(frozen=True, kw_only=True)
class LadderConfig(Settings):
    """What `fit-scaling plan` lays out: a ladder of runs, several model sizes for each budget."""

    budgets: str = setting(DEEPSEEK_BUDGETS, "Compute budgets, separated by commas.", unit="FLOPs")
    n_allocations: int = setting(10, "Model sizes for each budget.", min=1)
    span: float = setting(
        8.0, "The sizes reach from 1/span to span times the compute-optimal one.", min=1, max=1000
    )
    centre: float = setting(
        1.0, "Move the sizes to this many times the compute-optimal one of the laws.", above=0
    )
    fits: str | None = setting(
        None, "Folder that fit-scaling fit wrote: take its laws where it has them, DeepSeek LLM's otherwise."
    )
    vocab_size: int | None = setting(
        None, "Rows of the embedding; not given: the token folder's, or the paper's 102,400.", min=1
    )
    seq_len: int = setting(4096, "Tokens in one sequence.", min=1)
    tokens: str = setting("TOKENS", "Token folder to name in the commands.")
    valid: str | None = setting(None, "Validation token folder to name in the commands.")
    runs: str = setting("runs", "Folder in which the commands put their runs.")
    more: str = setting("", "Other flags of pretrain for every command, such as '--init-std 0.02'.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.budget_list()
        try:
            shlex.split(self.more)
        except ValueError as error:
            raise ConfigError(f"more is {self.more!r}: {error}", hint="close the quotation mark") from None

    def budget_list(self) -> list[float]:
        """The budgets as numbers, ascending."""
        budgets = []
        for word in self.budgets.split(","):
            try:
                budgets.append(float(word))
            except ValueError:
                budgets.append(0.0)
            if not 1e6 <= budgets[-1] <= 1e30:
                raise ConfigError(
                    f"budgets holds {word.strip()!r}, which is no number of FLOPs from 1e6 to 1e30",
                    hint="try --budgets 1e17,3e17,1e18",
                )
        return sorted(set(budgets))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """What `fit-scaling predict` is asked: two of three give the third; compute alone, the optimum."""

    compute: float | None = setting(None, "Compute budget C.", unit="FLOPs", above=0)
    flops_per_token: float | None = setting(None, "Model scale M.", unit="FLOPs per token", above=0)
    n_tokens: float | None = setting(None, "Training tokens D.", above=0)
    n_parameters: float | None = setting(
        None, "Non-embedding parameters for Step Law; not given: M / 6.", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        n_given = sum(value is not None for value in (self.compute, self.flops_per_token, self.n_tokens))
        if self.compute is None and n_given < 2:
            raise ConfigError(
                "compute is missing, and flops_per_token with n_tokens does not replace it",
                hint="try --compute 1e20, or --flops-per-token 4.2e10 --n-tokens 2e12",
            )
        if n_given == 3:
            raise ConfigError(
                "compute, flops_per_token and n_tokens are all given, but two make the third",
                hint="leave out --compute",
            )
