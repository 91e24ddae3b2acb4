import torch

from dsllm.kernels import check


def test_an_error_is_measured_against_the_largest_number():
    grad = torch.ones(2)
    # Result 2 x against 2.5 x at x = (1, 4): 2 of 10. Gradient 2 against 2.5: 0.5 of 2.5. Both are one fifth.
    error = check.worst_error(lambda x: 2 * x, lambda x: 2.5 * x, [torch.tensor([1.0, 4.0])], grad)
    assert abs(error - 0.2) < 1e-6


def test_a_wrong_gradient_is_found():
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 1.5 * grad

    error = check.worst_error(WrongGradient.apply, lambda x: x.clone(), [torch.ones(2)], torch.ones(2))
    assert error == 0.5


def test_an_error_that_is_no_number_is_not_right():
    assert check.Check("attention", "", worst_error=0.1, tolerance=0.2).is_right
    assert not check.Check("attention", "", worst_error=0.3, tolerance=0.2).is_right
    assert not check.Check("attention", "", worst_error=float("nan"), tolerance=0.2).is_right
