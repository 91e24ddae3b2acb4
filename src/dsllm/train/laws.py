"""The learning rate and batch that the paper found near-optimal for a compute budget.

Each law is COEFFICIENT * C ** EXPONENT, fitted on budgets from 1e17 to 2e19 FLOPs. The paper does not say the
batch's unit; only tokens reproduce its table 2.

Source: arXiv:2401.02954, equation 1.
"""

LR_COEFFICIENT, LR_EXPONENT = 0.3118, -0.1250
BATCH_COEFFICIENT, BATCH_EXPONENT = 0.2920, 0.3271


def optimal_lr(compute_flops: float) -> float:
    """The peak learning rate for C FLOPs."""
    return float(LR_COEFFICIENT * compute_flops**LR_EXPONENT)


def optimal_batch_tokens(compute_flops: float) -> float:
    """The batch for C FLOPs, in tokens."""
    return float(BATCH_COEFFICIENT * compute_flops**BATCH_EXPONENT)


def optimal_batch_of_steps(flops_per_token: float, n_steps: int) -> float:
    """The batch when the steps are given, in tokens: C is then M * n_steps * batch, and the law is solved."""
    without_batch = BATCH_COEFFICIENT * (flops_per_token * n_steps) ** BATCH_EXPONENT
    return float(without_batch ** (1 / (1 - BATCH_EXPONENT)))
