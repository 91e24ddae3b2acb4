"""The learning rate and batch that the paper found near-optimal for a compute budget."""


def optimal_lr(compute_flops: float) -> float:
    """The peak learning rate for C FLOPs: 0.3118 * C ** -0.1250.

    Source: arXiv:2401.02954, equation 1, fitted on budgets from 1e17 to 2e19.
    """
    return float(0.3118 * compute_flops**-0.1250)


def optimal_batch_tokens(compute_flops: float) -> float:
    """The batch for C FLOPs: 0.2920 * C ** 0.3271.

    The paper does not say in what unit; only tokens reproduce its table 2.

    Source: arXiv:2401.02954, equation 1.
    """
    return float(0.2920 * compute_flops**0.3271)


def optimal_batch_of_steps(flops_per_token: float, n_steps: int) -> float:
    """The batch when the steps are given, in tokens: C is then M * n_steps * batch, and the law is solved."""
    return float((0.2920 * (flops_per_token * n_steps) ** 0.3271) ** (1 / (1 - 0.3271)))
