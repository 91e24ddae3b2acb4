import pytest
import torch

from dsllm.kernels import check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


def test_every_kernel_is_right_when_it_is_compiled():
    rows = check.run("cuda")  # in a process of its own: this one interprets
    assert rows
    assert not [row for row in rows if not row.is_right]
