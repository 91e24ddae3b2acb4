"""Settings of `dsllm dpo`.

From the paper (arXiv:2401.02954, section 4): 1 epoch, learning rate 5e-6, 512 pairs in a batch, warm-up and
cosine. It does not give beta: 0.1 is the default of Rafailov et al. 2023, arXiv:2305.18290, appendix B.
"""

from dataclasses import dataclass

from dsllm.config import setting
from dsllm.train.settings import AlignmentConfig


@dataclass(frozen=True, kw_only=True)
class DpoConfig(AlignmentConfig):
    """What is preferred to what, and how strongly that counts."""

    n_epochs: int = setting(1, "Passes over the data.", min=1)
    batch_seqs: int = setting(512, "Pairs in one update.", min=1)
    lr_max: float = setting(5e-6, "Peak learning rate.", above=0)
    beta: float = setting(0.1, "How closely the model is held to the one it starts from.", above=0)
    reference: str | None = setting(
        None, "reference.safetensors of an earlier run with the same model and pairs, to be used again."
    )
