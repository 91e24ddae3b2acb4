import json
import math
import os
import signal

import pytest
import torch

from dsllm.errors import ConfigError, DsllmError
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.train.batches import IGNORED, TokenBatch
from dsllm.train.checkpoint import latest_checkpoint, list_checkpoints
from dsllm.train.loop import Job, LoopSettings, StepBatch, finish_checkpoints, train
from dsllm.train.losses import LossSum, PreferenceBatch, dpo_loss, sequence_logps, token_logps, token_loss
from dsllm.train.metrics import MetricsFile, read_metrics
from dsllm.train.optimizer import make_optimizer
from dsllm.train.schedule import Schedule

N_SEQS, SEQ_LEN, N_STEPS = 6, 12, 8


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in the same order whatever else runs."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def sequences(step, vocab_size):
    """The global batch of a step, some labels of it masked: a function of the step."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, vocab_size, (N_SEQS, SEQ_LEN + 1), generator=generator)
    labels = ids[:, 1:].clone()
    for row, n_masked in enumerate(torch.randint(0, SEQ_LEN, (N_SEQS,), generator=generator).tolist()):
        labels[row, :n_masked] = IGNORED  # rows count for different numbers of tokens
    return TokenBatch(tokens=ids[:, :-1], labels=labels)


def make_job(config, micro_batch_seqs=2, **changes):
    model = Transformer(config)
    model.init_weights(0)

    def batch(step):
        whole = sequences(step, config.vocab_size)
        parts = [
            TokenBatch(tokens=tokens, labels=labels)
            for tokens, labels in zip(
                whole.tokens.split(micro_batch_seqs), whole.labels.split(micro_batch_seqs), strict=True
            )
        ]
        return StepBatch(micro_batches=parts, n_units=whole.n_labels, n_tokens=whole.tokens.numel())

    values = {"model": model, "optimizer": make_optimizer(model, weight_decay=0.1), "batch": batch}
    return Job(**{**values, "loss": token_loss, **changes})


def make_settings(**changes):
    schedule = Schedule(name="multi-step", lr_max=0.01, n_steps=N_STEPS, warmup_steps=2)
    return LoopSettings(**{"schedule": schedule, "dtype": "fp32", "save_every_s": None, **changes})


def go(job, settings, folder):
    return train(job, settings, folder, ranks=Ranks(), reporter=Reporter(is_quiet=True))


def weights(job):
    return {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}


def without_times(lines):
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


class StopAt:
    """A batch function that ends the run at a step, as a signal or an error would."""

    def __init__(self, batch, step, action):
        self.batch, self.step, self.action = batch, step, action

    def __call__(self, step):
        if step == self.step:
            self.action()
        return self.batch(step)


def fail():
    raise RuntimeError("the machine went away")


@pytest.mark.parametrize("micro_batch_seqs", [1, 4, 6])
def test_cut_into_micro_batches_does_not_matter(tiny_config, tmp_path, micro_batch_seqs):
    one, other = make_job(tiny_config, 2), make_job(tiny_config, micro_batch_seqs)
    go(one, make_settings(), tmp_path / "one")
    go(other, make_settings(), tmp_path / "other")
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "other")]
    # The first loss differs by the order of fp32 sums alone: of about 40 terms, 2**-24 each. Later ones
    # carry it on through AdamW, which lifts tiny gradients to the size of the learning rate.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_loss_is_the_mean_over_labels_of_the_whole_batch(tiny_config, tmp_path):
    job = make_job(tiny_config)
    whole = sequences(0, tiny_config.vocab_size)
    with torch.no_grad():
        logits = job.model(whole.tokens).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, whole.labels.flatten())  # skips -100
    summary = go(job, make_settings(), tmp_path)
    assert summary["initial_loss"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("save_every_steps", [1, 3])
@pytest.mark.parametrize("stopped_at", [1, 4, 7])
def test_broken_run_goes_on_to_equal_bits(tiny_config, tmp_path, save_every_steps, stopped_at):
    settings = make_settings(save_every_steps=save_every_steps)
    undisturbed = make_job(tiny_config)
    expected = go(undisturbed, settings, tmp_path / "undisturbed")
    job = make_job(tiny_config)
    with pytest.raises(RuntimeError, match="went away"):
        broken = make_job(tiny_config, batch=StopAt(job.batch, stopped_at, fail))
        go(broken, settings, tmp_path / "broken")
    assert go(job, settings, tmp_path / "broken") == expected
    for name, weight in weights(undisturbed).items():
        assert torch.equal(weights(job)[name], weight), name
    lines = [without_times(read_metrics(tmp_path / name)) for name in ("undisturbed", "broken")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_interrupts(tiny_config, tmp_path, number):
    undisturbed = make_job(tiny_config)
    expected = go(undisturbed, make_settings(), tmp_path / "undisturbed")
    job = make_job(tiny_config)
    stopping = make_job(tiny_config, batch=StopAt(job.batch, 4, lambda: os.kill(os.getpid(), number)))
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        go(stopping, make_settings(), tmp_path / "stopped")
    assert signal.getsignal(number) == handler
    assert latest_checkpoint(tmp_path / "stopped").name == "step-00000005"  # the step was finished
    assert go(job, make_settings(), tmp_path / "stopped") == expected
    assert all(torch.equal(weights(job)[name], weight) for name, weight in weights(undisturbed).items())


def test_second_signal_interrupts_at_once(tiny_config, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    job = make_job(tiny_config)
    with pytest.raises(KeyboardInterrupt):
        go(make_job(tiny_config, batch=StopAt(job.batch, 4, twice)), make_settings(), tmp_path)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_loss_stops_the_run(tiny_config, tmp_path, value):
    job = make_job(tiny_config)
    calls = []

    def loss(model, batch):
        calls.append(batch)
        good = token_loss(model, batch)
        return LossSum(good.total * value) if len(calls) == 3 * 4 + 1 else good  # first of step 5's three

    bad = make_job(tiny_config, loss=loss)
    with pytest.raises(DsllmError, match=r"^step 5: the loss is (nan|inf)") as error:
        go(bad, make_settings(save_every_steps=1), tmp_path)
    assert "--lr-max" in error.value.hint
    assert latest_checkpoint(tmp_path).name == "step-00000004"
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert all(weight.isfinite().all() for weight in weights(bad).values())
    assert job.batch(0).n_units > 0


def test_batch_without_labels_is_refused(tiny_config, tmp_path):
    job = make_job(tiny_config)

    def batch(step):
        part = job.batch(step).micro_batches[0]
        return StepBatch(micro_batches=[part], n_units=0, n_tokens=part.tokens.numel())

    with pytest.raises(ConfigError, match="0 labels count"):
        go(make_job(tiny_config, batch=batch), make_settings(), tmp_path)


def test_evaluations_are_logged_and_change_nothing(tiny_config, tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.training)
        return {"valid_loss": float(len(seen))}

    plain = make_job(tiny_config)
    go(plain, make_settings(), tmp_path / "plain")
    job = make_job(tiny_config, evaluate=evaluate)
    summary = go(job, make_settings(eval_every=3), tmp_path / "evaluated")
    lines = [line for line in read_metrics(tmp_path / "evaluated") if "valid_loss" in line]
    assert [line["step"] for line in lines] == [0, 3, 6, 8]
    assert (summary["initial_valid_loss"], summary["valid_loss"]) == (1.0, 4.0)
    assert not any(seen)
    assert job.model.training
    assert all(torch.equal(weights(job)[name], weight) for name, weight in weights(plain).items())


def test_checkpoint_comes_before_the_last_evaluation(tiny_config, tmp_path):
    def evaluate(model):
        if latest_checkpoint(tmp_path):
            fail()
        return {"valid_loss": 1.0}

    with pytest.raises(RuntimeError, match="went away"):
        go(make_job(tiny_config, evaluate=evaluate), make_settings(), tmp_path)
    assert latest_checkpoint(tmp_path).name == f"step-{N_STEPS:08}"
    summary = go(make_job(tiny_config, evaluate=lambda model: {"valid_loss": 2.0}), make_settings(), tmp_path)
    assert (summary["initial_valid_loss"], summary["valid_loss"]) == (1.0, 2.0)
    assert summary["n_steps"] == N_STEPS


def test_checkpoints_by_the_clock_and_for_good(tiny_config, tmp_path):
    settings = make_settings(save_every_s=1e-9, keep_every_steps=5, n_checkpoints=2)
    go(make_job(tiny_config), settings, tmp_path)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["5", "7", "8"]
    finish_checkpoints(settings, tmp_path)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["5"]


def test_bf16_stays_near_fp32(tiny_config, tmp_path):
    summaries = [
        go(make_job(tiny_config), make_settings(dtype=dtype), tmp_path / dtype) for dtype in ("fp32", "bf16")
    ]
    # products of bf16 factors, 2**-9 each, through two layers: a loss of 4.6 moves by less than 1 %
    assert summaries[1]["initial_loss"] == pytest.approx(summaries[0]["initial_loss"], rel=0.01)
    assert summaries[1]["loss"] == pytest.approx(summaries[0]["loss"], rel=0.02)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    lines = [{"step": 0, "valid_loss": 2.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.9}]
    lines += [{"step": 2, "valid_loss": 0.8}, {"step": 3, "loss": 0.7}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "lo')  # a kill in the middle of a line
    assert read_metrics(tmp_path) == lines
    file = MetricsFile(tmp_path, step=2)
    file.append({"step": 3, "loss": 0.5})
    file.close()
    assert read_metrics(tmp_path) == [*lines[:3], {"step": 3, "loss": 0.5}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_sequence_logps_are_sums_of_token_logps(tiny_config):
    model = Transformer(tiny_config)
    model.init_weights(3)
    batch = sequences(5, tiny_config.vocab_size)
    log_softmax = model(batch.tokens).log_softmax(-1)
    expected = [
        sum(log_softmax[row, t, label].item() for t, label in enumerate(labels) if label != IGNORED)
        for row, labels in enumerate(batch.labels.tolist())
    ]
    assert sequence_logps(model, batch).tolist() == pytest.approx(expected, rel=1e-5)
    assert token_loss(model, batch).total.item() == pytest.approx(-sum(expected), rel=1e-5)
    assert (token_logps(model, batch)[batch.labels == IGNORED] == 0).all()


def test_dpo_by_hand(tiny_config):
    model = Transformer(tiny_config)
    model.init_weights(3)
    batch = sequences(5, tiny_config.vocab_size)
    logps = sequence_logps(model, batch).detach()
    same = dpo_loss(model, PreferenceBatch(sequences=batch, reference_logps=logps), beta=0.1)
    assert same.total.item() == pytest.approx(3 * math.log(2))  # three pairs, margin 0
    assert same.metrics["reward_accuracy"] == 0
    # margins of 2 - (-1) = 3 nats in the first pair, -1 in the second, 0 in the third
    shift = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.0, 1.0])
    loss = dpo_loss(model, PreferenceBatch(sequences=batch, reference_logps=logps - shift), beta=0.5)
    expected = sum(math.log(1 + math.exp(-0.5 * margin)) for margin in (3.0, -1.0, 0.0))
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    numbers = {name: value.item() for name, value in loss.metrics.items()}
    expected_numbers = {
        "reward_chosen": 1.5,
        "reward_rejected": 0.5,
        "reward_margin": 1.0,
        "reward_accuracy": 1,
    }
    assert {name: numbers[name] for name in expected_numbers} == pytest.approx(expected_numbers, abs=1e-4)
