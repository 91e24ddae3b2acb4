"""Settings of `dsllm sft`.

From the paper (arXiv:2401.02954, section 4) for its 7B: 4 epochs, learning rate 1e-5; for its 67B: 2 epochs,
5e-6. It gives neither batch nor length, schedule or weight decay: those are ours.
"""

from dataclasses import dataclass

from dsllm.train.settings import AlignmentConfig


@dataclass(frozen=True, kw_only=True)
class SftConfig(AlignmentConfig):
    """What is learnt from, and how; the defaults are the paper's for its 7B."""
