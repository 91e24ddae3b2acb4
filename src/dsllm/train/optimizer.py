"""AdamW with the paper's constants, and gradient clipping.

The paper gives betas 0.9 and 0.95, weight decay 0.1 and clipping at 1.0 (section 2.3). It does not give
epsilon, nor which parameters decay: 1e-8 and "matrices only" (norm weights are spared) are ours.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dsllm.kernels.adamw import AdamWItem, adamw_
from dsllm.kernels.backend import Backend

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
    backend: Backend = "auto",
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `model`; `decay` says which of them shrink.

    The learning rate is set before each update by `set_learning_rate`. Where all weights are fp32, torch's
    fused implementation is taken unless `backend` is "triton": one pass over memory, equal to the formula
    within one rounding (2.4e-7 after 20 steps). For weights in fewer bits it is `MasterAdamW`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if _decays(parameter, decay)]
    spared = [parameter for parameter in parameters if not _decays(parameter, decay)]
    groups = [
        {"params": members, "weight_decay": amount}
        for members, amount in ((decayed, weight_decay), (spared, 0.0))
        if members
    ]
    if backend != "triton" and all(parameter.dtype == torch.float32 for parameter in parameters):
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    return MasterAdamW(groups, betas=betas, eps=eps, backend=backend)


class MasterAdamW(torch.optim.Optimizer):
    """AdamW whose moments are fp32, and whose weights are too, in a copy, where the model's are not.

    An update of a bf16 weight is mostly smaller than half of its last place, so that without the copy it
    would be lost. The state has the names that `torch.optim.AdamW` gives it, and `master`.

    Args:
        groups: parameters with their `weight_decay`, as for `torch.optim.AdamW`.
        betas: of all groups.
        eps: of all groups.
        backend: see `dsllm.kernels.adamw`.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float, backend: Backend
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas, self.eps, self.backend = betas, eps, backend

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, grad_factor: Tensor | None = None
    ) -> None:
        """Update every parameter that has a gradient, once multiplied by `grad_factor` if there is one."""
        assert closure is None, "the loss is computed before"
        items = [
            self._item(parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        adamw_(items, betas=self.betas, eps=self.eps, grad_factor=grad_factor, backend=self.backend)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state over; the base class would round it to the dtype of the parameters."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, values in state_dict["state"].items():
            state = self.state[parameters[index]]
            for name in ("exp_avg", "exp_avg_sq", "master"):
                if name in values:
                    state[name] = values[name].to(state[name].device, torch.float32, copy=True)

    def _item(self, parameter: Tensor, group: dict[str, Any]) -> AdamWItem:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        if parameter.dtype != torch.float32 and "master" not in state:
            state["master"] = parameter.to(torch.float32)
        state["step"] += 1
        assert parameter.grad is not None
        return AdamWItem(
            weight=parameter,
            master=state.get("master"),
            exp_avg=state["exp_avg"],
            exp_avg_sq=state["exp_avg_sq"],
            grad=parameter.grad.contiguous(),
            n_updates=int(state["step"]),
            lr=group["lr"],
            weight_decay=group["weight_decay"],
        )


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
