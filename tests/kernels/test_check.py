import pytest
import torch
from typer.testing import CliRunner

from dsllm.cli.app import app
from dsllm.kernels import check
from dsllm.kernels.checks import measure


def test_an_error_is_measured_against_the_largest_number():
    grad = torch.ones(2)
    # Result 2 x against 2.5 x at x = (1, 4): 2 of 10. Gradient 2 against 2.5: 0.5 of 2.5. Both are one fifth.
    error = measure.worst_error(lambda x: 2 * x, lambda x: 2.5 * x, [torch.tensor([1.0, 4.0])], grad)
    assert abs(error - 0.2) < 1e-6


def test_a_wrong_gradient_is_found():
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 1.5 * grad

    error = measure.worst_error(WrongGradient.apply, lambda x: x.clone(), [torch.ones(2)], torch.ones(2))
    assert error == 0.5


def test_an_error_that_is_no_number_is_not_right():
    assert measure.Check("attention", "", worst_error=0.1, tolerance=0.2).is_right
    assert not measure.Check("attention", "", worst_error=0.3, tolerance=0.2).is_right
    assert not measure.Check("attention", "", worst_error=float("nan"), tolerance=0.2).is_right


def test_several_results_each_have_their_gradient():
    # Results x and 3 x with gradients 1 and 2 give 7; the other's 2 x in place of 3 x gives 5: 2 of 7, but
    # the results 2 and 3 differ by 1 of 3.
    error = measure.worst_error(
        lambda x: (x * 1, x * 2), lambda x: (x * 1, x * 3), [torch.ones(1)], torch.ones(1), 2 * torch.ones(1)
    )
    assert abs(error - 1 / 3) < 1e-6


def test_empty_results_have_no_error_and_another_shape_an_endless_one():
    assert measure.error_of(torch.ones(0, 2), torch.ones(0, 2)) == 0
    assert measure.error_of(torch.ones(1, 2), torch.ones(2)) == torch.inf


def test_errors_are_told_in_units_in_the_last_place():
    # 1 + 2**-7 is the number in bf16 after 1; 2**-8 of 1 is the unit.
    error = measure.error_of(torch.tensor([1 + 2**-7]).bfloat16(), torch.ones(1, dtype=torch.float64))
    row = measure.judge("swiglu", "", torch.bfloat16, error)
    assert (row.worst_units, row.allowed_units, row.is_right) == (2, 2, True)


@pytest.mark.parametrize(("error", "status"), [(0.005, 0), (0.01, 1)])
def test_the_command_ends_with_1_when_a_kernel_is_wrong(error, status, monkeypatch):
    rows = [measure.judge("swiglu", "3 x 5", torch.bfloat16, error)]
    monkeypatch.setattr(check, "run", lambda device: rows)
    assert CliRunner().invoke(app, ["kernels", "check"]).exit_code == status


def test_every_kernel_is_checked():
    dtypes = {dtype: set() for dtype in measure.UNITS}
    for dtype, kernels in dtypes.items():
        for cases in check.CASES:
            kernels.add(next(cases(dtype, "cpu")).kernel)
    assert dtypes[torch.float32] == dtypes[torch.bfloat16]
    assert len(dtypes[torch.float32]) == len(check.CASES)
