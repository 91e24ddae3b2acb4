"""The laws that others published, as named constants with their source."""

import math
from dataclasses import dataclass

from dsllm.stages.fit_scaling.laws import PowerLaw
from dsllm.train.laws import BATCH_COEFFICIENT, BATCH_EXPONENT, LR_COEFFICIENT, LR_EXPONENT


@dataclass(frozen=True)
class Laws:
    """What a compute budget C (FLOPs) buys: each is a power law in C, None where the source has none."""

    name: str
    source: str
    lr_max: PowerLaw | None
    batch_tokens: PowerLaw | None
    flops_per_token: PowerLaw | None  # M, non-embedding FLOPs per token
    n_tokens: PowerLaw | None  # D


@dataclass(frozen=True)
class Parametric:
    """loss(N, D) = E + A / N^alpha + B / D^beta, with N in parameters."""

    a: float
    b: float
    e: float
    alpha: float
    beta: float

    def __call__(self, n_parameters: float, n_tokens: float) -> float:
        """The loss in nats per token."""
        over_model = self.a * math.pow(n_parameters, -self.alpha)
        return self.e + over_model + self.b * math.pow(n_tokens, -self.beta)

    def n_parameters_law(self) -> PowerLaw:
        """N_opt(C): where C = 6 N D and the loss is lowest.

        Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 4.
        """
        total = self.alpha + self.beta
        base = (self.alpha * self.a / (self.beta * self.b)) ** (1 / total)
        exponent = self.beta / total
        return PowerLaw(base / 6**exponent, exponent)

    def n_tokens_law(self) -> PowerLaw:
        """D_opt(C), by C = 6 N D."""
        law = self.n_parameters_law()
        return PowerLaw(1 / (6 * law.coefficient), 1 - law.exponent)


DEEPSEEK = Laws(
    name="DeepSeek LLM",
    source="Bi et al. 2024, arXiv:2401.02954, equations 1 and 4",
    lr_max=PowerLaw(LR_COEFFICIENT, LR_EXPONENT),
    batch_tokens=PowerLaw(BATCH_COEFFICIENT, BATCH_EXPONENT),
    flops_per_token=PowerLaw(0.1715, 0.5243),
    n_tokens=PowerLaw(5.8316, 0.4757),
)

CHINCHILLA_FIT = Parametric(a=482.01, b=2085.43, e=1.8172, alpha=0.3478, beta=0.3658)
"""Chinchilla's third approach, fitted again: Besiroglu et al. 2024, arXiv:2404.10102."""


def _chinchilla() -> Laws:
    n_parameters = CHINCHILLA_FIT.n_parameters_law()
    return Laws(
        name="Chinchilla (Epoch)",
        source="Besiroglu et al. 2024, arXiv:2404.10102; M = 6 N",
        lr_max=None,
        batch_tokens=None,
        flops_per_token=PowerLaw(6 * n_parameters.coefficient, n_parameters.exponent),
        n_tokens=CHINCHILLA_FIT.n_tokens_law(),
    )


CHINCHILLA = _chinchilla()

STEP_LAW_SOURCE = "Li et al. 2025, arXiv:2503.04715"


def step_law(n_parameters: float, n_tokens: float) -> tuple[float, float]:
    """Step Law's peak learning rate and batch in tokens, from non-embedding parameters N and tokens D.

    Source: Li et al. 2025, arXiv:2503.04715: lr = 1.79 N^-0.713 D^0.307, B = 0.58 D^0.571.
    """
    return 1.79 * n_parameters**-0.713 * n_tokens**0.307, 0.58 * n_tokens**0.571
