"""Losses as sums over their units, so that a global batch may be cut into any micro-batches.

A loss here is a sum over units: tokens with a label, or preference pairs. The loop divides by the units of
the whole global batch, over all micro-batches and ranks. Averaging per micro-batch instead would weigh a
token of a short answer more than one of a long answer.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dsllm.kernels.cross_entropy import token_cross_entropy
from dsllm.model.transformer import Transformer
from dsllm.train.batches import IGNORED, TokenBatch


@dataclass(frozen=True)
class LossSum:
    """A loss summed over the units of one micro-batch, and numbers to log, also sums over units."""

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PreferenceBatch:
    """Preference pairs: the chosen answers of n pairs in rows 0..n-1, the rejected ones in n..2n-1.

    Args:
        sequences: prompt and answer of each row; labels only on the answer.
        reference_logps: summed log-probability of each answer under the reference model, shape (2 n,).
    """

    sequences: TokenBatch
    reference_logps: Tensor

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        return type(self)(
            sequences=self.sequences.to(device), reference_logps=self.reference_logps.to(device)
        )


def token_loss(model: Transformer, batch: TokenBatch) -> LossSum:
    """Cross-entropy in nats, summed over the labels that count: pre-training and fine-tuning alike."""
    total, _ = model.loss(
        batch.tokens, batch.labels, positions=batch.positions, document_ids=batch.document_ids
    )
    return LossSum(total)


def token_logps(model: Transformer, batch: TokenBatch) -> Tensor:
    """Log-probability of each label, zero where none counts: fp32, shape (n_seqs, seq_len)."""
    hidden = model.hidden(batch.tokens, positions=batch.positions, document_ids=batch.document_ids)
    return -token_cross_entropy(hidden, model.output_weight, batch.labels, ignore_index=IGNORED)


def sequence_logps(model: Transformer, batch: TokenBatch) -> Tensor:
    """Log-probability of the labels of each row, summed: fp32, shape (n_seqs,)."""
    return token_logps(model, batch).sum(dim=1)


def dpo_loss(model: Transformer, batch: PreferenceBatch, *, beta: float) -> LossSum:
    """DPO's sigmoid loss, summed over pairs; logs rewards, margins, accuracy and log-probabilities.

    A pair counts as right when the chosen answer's reward is strictly greater, so a policy that equals its
    reference has accuracy 0 and loss ln 2.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    policy_logps = sequence_logps(model, batch.sequences)
    rewards = beta * (policy_logps - batch.reference_logps)
    chosen, rejected = rewards.chunk(2)
    chosen_logps, rejected_logps = policy_logps.detach().chunk(2)
    metrics = {
        "reward_chosen": chosen.detach().sum(),
        "reward_rejected": rejected.detach().sum(),
        "reward_margin": (chosen - rejected).detach().sum(),
        "reward_accuracy": (chosen > rejected).sum(),
        "logp_chosen": chosen_logps.sum(),
        "logp_rejected": rejected_logps.sum(),
    }
    return LossSum(-logsigmoid(chosen - rejected).sum(), metrics)
