import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsllm.errors import ConfigError
from dsllm.train.laws import optimal_batch_of_steps, optimal_batch_tokens, optimal_lr
from dsllm.train.schedule import Schedule, default_warmup_steps, learning_rate


def rates(**values):
    schedule = Schedule(**values)
    return [learning_rate(schedule, step) for step in range(schedule.n_steps)]


def test_multi_step_by_hand():
    # 10 steps: two of warm-up (half, whole), whole until 8 of 10 are done, sqrt(0.1) for one, 0.1 for one
    expected = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.632455532, 0.2]
    assert rates(name="multi-step", lr_max=2.0, n_steps=10, warmup_steps=2) == pytest.approx(expected)


def test_multi_step_of_the_7b():
    # 211,928 steps of 9,437,184 tokens; README of the release: the rate falls at 1.6 and 1.8 of 2.0 T tokens
    schedule = Schedule(name="multi-step", lr_max=4.2e-4, n_steps=211_928, warmup_steps=2000)
    first_fall, second_fall = 169_543, 190_736  # 80 % and 90 % of the steps, rounded up
    at = {step: learning_rate(schedule, step) / 4.2e-4 for step in (0, 999, 1999)}
    assert at == pytest.approx({0: 1 / 2000, 999: 0.5, 1999: 1.0})
    for fall, before, after in ((first_fall, 1.0, 0.316), (second_fall, 0.316, 0.1)):
        assert learning_rate(schedule, fall - 1) / 4.2e-4 == pytest.approx(before, abs=5e-4)
        assert learning_rate(schedule, fall) / 4.2e-4 == pytest.approx(after, abs=5e-4)


def test_cosine_by_hand():
    # four falling steps after one of warm-up: (1 + cos(k pi / 4)) / 2 between 1 and 0.1
    falls = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    expected = [1.0] + [0.1 + 0.9 * fall for fall in falls]
    assert rates(name="cosine", lr_max=1.0, n_steps=5, warmup_steps=1) == pytest.approx(expected)
    to_zero = [1.0, *falls]
    assert rates(name="cosine", lr_max=1.0, n_steps=5, warmup_steps=1, lr_end_frac=0.0) == pytest.approx(
        to_zero
    )


def test_constant_has_only_the_warmup():
    assert rates(name="constant", lr_max=3.0, n_steps=5, warmup_steps=3) == pytest.approx([1, 2, 3, 3, 3])


@given(
    name=st.sampled_from(["multi-step", "cosine", "constant"]),
    n_steps=st.integers(1, 300),
    warmup_frac=st.floats(0, 1),
)
def test_rate_is_positive_at_most_the_maximum_and_never_rises_after_warmup(name, n_steps, warmup_frac):
    warmup_steps = int(n_steps * warmup_frac)
    values = rates(name=name, lr_max=1.0, n_steps=n_steps, warmup_steps=warmup_steps)
    assert all(0 < value <= 1 for value in values)
    rest = values[warmup_steps:]
    assert rest == sorted(rest, reverse=True)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps is 20, but the run has 10 steps"):
        Schedule(name="constant", lr_max=1.0, n_steps=10, warmup_steps=20)


def test_default_warmup_is_the_papers_or_five_percent():
    assert [default_warmup_steps(n) for n in (1, 100, 40_000, 211_928)] == [1, 5, 2000, 2000]


def test_laws_give_the_papers_table_2():
    # C = M * D of the 7B: 72 * 30 * 4096**2 + 12 * 30 * 4096 * 4096 FLOPs a token, 2.0 T tokens
    compute_7b = (72 * 30 * 4096**2 + 12 * 30 * 4096**2) * 2.0e12
    compute_67b = (72 * 95 * 8192**2 + 12 * 95 * 8192 * 4096) * 2.0e12
    assert optimal_lr(compute_7b) == pytest.approx(4.2e-4, rel=0.02)
    assert optimal_lr(compute_67b) == pytest.approx(3.2e-4, rel=0.03)
    assert optimal_batch_tokens(compute_7b) / 4096 == pytest.approx(2304, rel=0.03)
    assert optimal_batch_tokens(compute_67b) / 4096 == pytest.approx(4608, rel=0.1)


def test_batch_of_steps_solves_the_law():
    batch = optimal_batch_of_steps(1e9, 1000)
    assert batch == pytest.approx(optimal_batch_tokens(1e9 * 1000 * batch), rel=1e-12)
