"""The learning rate as a pure function of the step: nothing to save, nothing to restore.

The paper's schedule (section 2.3) warms up for 2,000 steps, stays at the maximum until 80 % of the tokens,
falls to 31.6 % of it until 90 %, then to 10 %. 31.6 % is the square root of 0.1: two equal steps on a log
scale. The paper does not say how the warm-up rises; here it is linear and its first step is not zero.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dsllm.errors import ConfigError

ScheduleName = Literal["multi-step", "cosine", "constant"]

PAPER_WARMUP_STEPS = 2000
WARMUP_FRAC_MAX = 0.05  # our choice for short runs, where 2,000 steps would be most of the run


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate over `n_steps` updates.

    Args:
        name: what follows the warm-up. "constant" stays at `lr_max`.
        lr_max: the rate at the end of the warm-up.
        n_steps: updates in the whole run, of equally many tokens.
        warmup_steps: updates over which the rate rises in a straight line.
        lr_end_frac: where "cosine" ends, as a share of `lr_max`.
    """

    name: ScheduleName
    lr_max: float
    n_steps: int
    warmup_steps: int = 0
    lr_end_frac: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup_steps > self.n_steps:
            raise ConfigError(
                f"warmup_steps is {self.warmup_steps:,}, but the run has {self.n_steps:,} steps",
                hint=f"try --warmup-steps {default_warmup_steps(self.n_steps)}",
            )


def default_warmup_steps(n_steps: int) -> int:
    """The paper's 2,000 steps, or 5 % of the run where that is fewer; at least one."""
    return max(1, min(PAPER_WARMUP_STEPS, int(n_steps * WARMUP_FRAC_MAX)))


def learning_rate(schedule: Schedule, step: int) -> float:
    """The rate of the update that follows `step` finished ones, 0 <= step < n_steps."""
    if step < schedule.warmup_steps:
        return schedule.lr_max * (step + 1) / schedule.warmup_steps
    if schedule.name == "multi-step":
        return schedule.lr_max * multi_step_frac(step, schedule.n_steps)
    if schedule.name == "cosine":
        n_falling = max(1, schedule.n_steps - schedule.warmup_steps)
        done_frac = (step - schedule.warmup_steps) / n_falling
        fall = 0.5 * (1 + math.cos(math.pi * done_frac))
        return schedule.lr_max * (schedule.lr_end_frac + (1 - schedule.lr_end_frac) * fall)
    return schedule.lr_max


def multi_step_frac(step: int, n_steps: int) -> float:
    """The paper's three levels after the warm-up. In whole numbers: 80 % of 10 steps are 8 steps."""
    if 10 * step < 8 * n_steps:
        return 1.0
    return math.sqrt(0.1) if 10 * step < 9 * n_steps else 0.1
