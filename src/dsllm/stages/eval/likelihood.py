"""Log-likelihoods of requests under a model: padded batches of rows, longest first."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.kernels.cross_entropy import CHUNK_BYTES
from dsllm.model.transformer import Transformer
from dsllm.stages.eval.requests import Request, cut_batches, group_inputs


@dataclass(frozen=True)
class Likelihood:
    """How likely the scored tokens of a request are: the sum in nats, and whether each was the likeliest."""

    logp: float
    is_greedy: bool


@torch.inference_mode()
def score_requests(model: Transformer, requests: Sequence[Request], *, batch_tokens: int) -> list[Likelihood]:
    """Score requests, in their order.

    Rows are padded on the right, where causal attention never looks from the left. Logits are computed only
    for the tokens that are scored, and turned into fp32 before the softmax.

    Args:
        model: on its device.
        requests: any number.
        batch_tokens: tokens that go through the model at once.
    """
    device = model.output_weight.device
    groups = list(group_inputs(requests).items())
    results: dict[int, Likelihood] = {}
    for rows in cut_batches([len(inputs) for inputs, _ in groups], batch_tokens):
        part = groups[rows.start : rows.stop]
        tokens = torch.zeros((len(part), len(part[0][0])), dtype=torch.int64)
        for row, (inputs, _) in enumerate(part):
            tokens[row, : len(inputs)] = torch.tensor(inputs)
        hidden = model.hidden(tokens.to(device))  # (rows, longest, d_model)
        indices = [index for _, members in part for index in members]
        wanted = [
            hidden[row, len(inputs) - requests[index].n_scored : len(inputs)]
            for row, (inputs, members) in enumerate(part)
            for index in members
        ]
        targets = torch.tensor(
            [token for index in indices for token in requests[index].tokens[-requests[index].n_scored :]],
            device=device,
        )
        logps, is_likeliest = _token_logps(model, torch.cat(wanted), targets)
        sizes = [requests[index].n_scored for index in indices]
        parts = zip(indices, torch.split(logps, sizes), torch.split(is_likeliest, sizes), strict=True)
        results |= {index: Likelihood(logp.sum().item(), bool(hits.all())) for index, logp, hits in parts}
    return [results[index] for index in range(len(requests))]


def _token_logps(model: Transformer, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each target's log-probability, fp64 for the sums to come, and whether it is the likeliest."""
    n_rows = max(1, CHUNK_BYTES // (4 * model.config.vocab_size))
    logps, hits = [], []
    for x, wanted in zip(torch.split(hidden, n_rows), torch.split(targets, n_rows), strict=True):
        logits = model.project(x).float()  # (rows, vocab_size)
        logps.append(logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].double().cpu())
        hits.append((logits.argmax(-1) == wanted).cpu())
    return torch.cat(logps), torch.cat(hits)
