import pytest
import torch

from dsllm.kernels import decode_attention_triton
from dsllm.kernels.checks import decode
from dsllm.kernels.decode_attention import decode_attention, decode_attention_formula, plan_pages

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", decode.DECODE_CASES, ids=lambda case: case.name)
def test_backends_match_the_formula_in_fp64(case, dtype, backend, device):
    row = decode.check_decode_attention(case, dtype, device, backend=backend)
    assert row.is_right, row


def test_formula_by_hand():
    # One channel, so the scale is 1; pages of two tokens. Scores 0, ln 2, ln 3 weigh values by 1, 2, 3 of 6.
    keys = torch.tensor([[2.0, 9.0], [7.0, 7.0], [1.0, 2.0]]).log()
    keys[0, 0] = torch.tensor(3.0).log()
    values = torch.tensor([[6.0, 99.0], [50.0, 50.0], [12.0, 3.0]])
    plan = plan_pages([[2, 0]], [3], 2, CPU)
    actual = decode_attention_formula(
        torch.ones(1, 1, 1), keys.view(3, 1, 2, 1), values.view(3, 1, 2, 1), plan
    )
    torch.testing.assert_close(actual.flatten(), torch.tensor([12 / 6 + 6 / 6 + 18 / 6]))


def test_plan_by_hand():
    plan = plan_pages([[0, 3, 1], [0, 4], [2]], [5, 4, 1], 2, CPU)  # page 0 is shared, 5 tokens in 3 pages
    assert plan.table.tolist() == [[0, 3, 1], [0, 4, 0], [2, 0, 0]]
    assert plan.pages is None  # 1 to 4 of the first five are read by one text: nothing is copied
    assert (plan.n_alone, plan.rows.tolist()) == (5, [0, 0, 2, 0, 1, 0, 1])  # then page 0 for two
    assert [(group.pages.tolist(), group.rows.tolist()) for group in plan.shared] == [([0], [0, 1])]
    assert plan.place_of.tolist() == [3, 2, 8, 1, 5, 0, 4]  # four places a text
    assert [plan.pair_at[place].item() for place in plan.place_of[1:]] == [1, 2, 3, 4, 5, 6]
    assert (plan.mask == 0).sum(dim=-1).flatten().tolist() == [5, 4, 1]
    assert plan_pages([[9], [7]], [2, 2], 2, CPU).pages.tolist() == [7, 9]  # far apart: gathered


def test_scores_far_apart_do_not_vanish():
    """A text whose scores are far below another's must not be divided by a sum that rounds to zero."""
    keys = torch.stack((torch.full((1, 4, 1), 200.0), torch.full((1, 4, 1), -200.0)))
    values = torch.arange(8.0).view(2, 1, 4, 1)
    q = torch.ones(2, 1, 1)
    actual = decode_attention(q, keys, values, plan_pages([[0], [1]], [4, 4], 4, CPU), backend="torch")
    assert actual.flatten().tolist() == [1.5, 5.5]


def test_shapes_that_do_not_fit_are_refused():
    keys = torch.zeros(2, 2, 4, 8)
    plan = plan_pages([[0]], [4], 4, CPU)
    for q in (torch.zeros(1, 3, 8), torch.zeros(1, 2, 6), torch.zeros(2, 2, 8)):
        with pytest.raises(ValueError):
            decode_attention(q, keys, keys, plan)


def test_programs_share_long_texts_where_there_are_few():
    split_count = decode_attention_triton.split_count
    assert split_count(64 * 32, 4096) == 1  # more programs than places
    assert split_count(4 * 8, 16384) == 16  # 528 // 32
    assert split_count(1, 1024) == 4  # each has 256 tokens
    assert split_count(1, 2**20) == 32
    assert split_count(1, 5) == 1
