"""Cross-entropy and AdamW, for `gpu_kernels.py`."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_case import Case, Contender, draw, is_installed
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.adamw import AdamWItem, adamw_, adamw_torch_
from dsllm.kernels.cross_entropy import cross_entropy
from dsllm.kernels.cross_entropy_logits import IGNORED, cross_entropy_formula, overwrite_with_gradient

BETAS, EPS, LR, DECAY = (0.9, 0.95), 1e-8, 3e-4, 0.1


def list_cross_entropy(device: str, *, is_dry: bool) -> Iterator[Case]:
    """Loss and gradient in one: in place where a contender can."""
    n_rows, vocab_size = (5, 50) if is_dry else (8192, 102_400)
    logits = draw(0, (n_rows, vocab_size), device)
    targets = draw_targets(n_rows, vocab_size, device)

    def expected() -> list[Tensor]:
        few = logits[:: max(1, n_rows // 512)].double().requires_grad_()
        losses = cross_entropy_formula(few, targets[:: max(1, n_rows // 512)])
        return [losses.detach(), torch.autograd.grad(losses.sum(), few)[0] * vocab_size**0.5]

    def compared(losses: Tensor, gradient: Tensor) -> list[Tensor]:
        # Most of the gradient is as small as 1 / vocab_size, and one number a row near 1.
        kept = slice(None, None, max(1, n_rows // 512))
        return [losses.float()[kept], gradient[kept].double() * vocab_size**0.5]

    def in_place(logits: Tensor) -> tuple[Tensor, Tensor]:
        return overwrite_with_gradient(logits, targets, backend="torch" if is_dry else "triton"), logits

    def eager(logits: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        losses = functional.cross_entropy(leaf, targets, ignore_index=IGNORED, reduction="none")
        return losses.detach(), torch.autograd.grad(losses, leaf, torch.ones_like(losses))[0]

    functions = {"dsllm": in_place, "torch": eager}
    if not is_dry:
        functions["torch.compile"] = compiled_cross_entropy(targets)
    if is_installed("liger_kernel") and not is_dry:
        functions["Liger"] = liger_cross_entropy(targets)
    contenders = {
        name: Contender(
            lambda f=function: compared(*f(logits.clone())),
            lambda f=function: partial(f, logits.clone()),
        )
        for name, function in functions.items()
    }
    shape = f"{n_rows} x {vocab_size}"
    yield Case(
        "cross_entropy, with gradient", shape, expected, contenders, n_bytes=(4.0 * logits.numel(), 0.0)
    )


def compiled_cross_entropy(targets: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def losses_of(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")

    compiled = torch.compile(losses_of)

    def run(logits: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        losses = compiled(leaf)
        return losses.detach(), torch.autograd.grad(losses, leaf, torch.ones_like(losses))[0]

    return run


def liger_cross_entropy(targets: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    from liger_kernel.transformers.functional import liger_cross_entropy as loss_of

    def run(logits: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        losses = loss_of(leaf, targets, ignore_index=IGNORED, reduction="none")
        return losses.detach(), torch.autograd.grad(losses, leaf, torch.ones_like(losses))[0]

    return run


def list_linear_cross_entropy(device: str, *, is_dry: bool) -> Iterator[Case]:
    """The output projection, the loss and both gradients."""
    n_tokens, d_model, vocab_size = (7, 12, 50) if is_dry else (8192, 4096, 102_400)
    hidden = draw(0, (n_tokens, d_model), device)
    weight = (draw(1, (vocab_size, d_model), device, torch.float32) * d_model**-0.5).to(torch.bfloat16)
    targets = draw_targets(n_tokens, vocab_size, device)

    def with_gradients(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
        loss = function(*leaves)
        return [loss.detach() / n_tokens, *torch.autograd.grad(loss, leaves)]

    def expected() -> list[Tensor]:
        leaves = [x.double().requires_grad_() for x in (hidden, weight)]
        loss = cross_entropy_formula(leaves[0] @ leaves[1].T, targets).sum()
        return [loss.detach() / n_tokens, *torch.autograd.grad(loss, leaves)]

    def eager(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = (hidden @ weight.T).float()
        return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")

    backend = "torch" if is_dry else "triton"
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "dsllm": lambda hidden, weight: cross_entropy(hidden, weight, targets, backend=backend)[0],
        "torch": eager,
    }
    if not is_dry:
        functions["torch.compile"] = torch.compile(eager)
    if is_installed("liger_kernel") and not is_dry:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

        functions["Liger"] = lambda hidden, weight: fused(
            hidden, weight, targets, ignore_index=IGNORED, reduction="sum"
        )
    contenders = {
        name: Contender(partial(with_gradients, f), partial(partial, with_gradients, f))
        for name, f in functions.items()
    }
    n_counted = int((targets != IGNORED).sum())
    yield Case(
        "linear + cross_entropy, with gradients",
        f"{n_tokens} x {d_model}, {vocab_size} words",
        expected,
        contenders,
        flops=(6.0 * n_counted * d_model * vocab_size, 0.0),
    )


def draw_targets(n_rows: int, vocab_size: int, device: str) -> Tensor:
    """Draw targets, of which every 64th row's is ignored."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(vocab_size, (n_rows,), generator=generator)
    targets[3::64] = IGNORED
    return targets.to(device)


def list_adamw(device: str, *, is_dry: bool) -> Iterator[Case]:
    """Update many tensors, in fp32, and in bf16 with master copies; peers have fp32 weights only."""
    shapes = [(3, 5), (7,)] if is_dry else [(4096, 4096)] * 12 + [(4096,)] * 12
    for dtype in (torch.float32, torch.bfloat16):
        weights = [draw(n, shape, device, dtype) for n, shape in enumerate(shapes)]
        grads = [draw(100 + n, shape, device, dtype) for n, shape in enumerate(shapes)]
        name = "fp32" if dtype == torch.float32 else "bf16, fp32 master copies"
        contenders = {"dsllm": adamw_contender(weights, grads, "torch" if is_dry else "triton")}
        if dtype == torch.float32:
            contenders["torch, foreach"] = torch_adamw(weights, grads, foreach=True)
            if not is_dry:
                contenders["torch, fused"] = torch_adamw(weights, grads, fused=True)
        n_numbers = sum(x.numel() for x in weights)
        yield Case(
            "adamw",
            f"{n_numbers} numbers, {name}",
            lambda weights=weights, grads=grads: expected_adamw(weights, grads),
            contenders,
            # Both: 24 of the fp32 tensors and 4 of the gradient, or of a bf16 gradient and weight.
            n_bytes=(28.0 * n_numbers, 0.0),
        )


def expected_adamw(weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Make one step in fp64; what is compared is the step itself, in units of the learning rate."""
    steps = []
    for weight, grad in zip(weights, grads, strict=True):
        item = make_item(weight.double(), grad.double(), None)
        adamw_torch_(item, BETAS, EPS)
        steps.append((item.weight - weight.double()) / LR)
    return steps


def adamw_contender(weights: list[Tensor], grads: list[Tensor], backend: str) -> Contender:
    def make() -> list[AdamWItem]:
        pairs = zip(weights, grads, strict=True)
        return [make_item(w.clone(), g, w.float() if w.dtype != torch.float32 else None) for w, g in pairs]

    def results() -> list[Tensor]:
        items = make()
        adamw_(items, betas=BETAS, eps=EPS, backend=backend)
        return [(x.target.double() - w.double()) / LR for x, w in zip(items, weights, strict=True)]

    return Contender(results, lambda: partial(adamw_, make(), betas=BETAS, eps=EPS, backend=backend))


def make_item(weight: Tensor, grad: Tensor, master: Tensor | None) -> AdamWItem:
    target = weight if master is None else master
    moments = torch.zeros_like(target), torch.zeros_like(target)
    return AdamWItem(weight, master, *moments, grad, n_updates=1, lr=LR, weight_decay=DECAY)


def torch_adamw(weights: list[Tensor], grads: list[Tensor], **kind: bool) -> Contender:
    def make() -> tuple[torch.optim.Optimizer, list[Tensor]]:
        leaves = [w.clone().requires_grad_() for w in weights]
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
        return torch.optim.AdamW(leaves, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, **kind), leaves

    def results() -> list[Tensor]:
        optimizer, leaves = make()
        optimizer.step()
        pairs = zip(leaves, weights, strict=True)
        return [(leaf.detach().double() - w.double()) / LR for leaf, w in pairs]

    return Contender(results, lambda: make()[0].step)
