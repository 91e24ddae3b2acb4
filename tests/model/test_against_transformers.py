"""Against what transformers' own Llama gave: golden numbers, and reference fixtures if they are there."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from dsllm.model.config import ModelConfig
from dsllm.model.generate import generate
from dsllm.model.hf import load_model
from dsllm.model.transformer import Transformer, initial_weight

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "model_transformers.json").read_text())
FIXTURES = Path(os.environ.get("DSLLM_TEST_DATA", "nowhere")).parent / "fixtures" / "llama"
TOLERANCE = 2e-5  # fp32 sums in other orders, through three layers

needs_fixtures = [
    pytest.mark.data,
    pytest.mark.skipif(not FIXTURES.is_dir(), reason="DSLLM_TEST_DATA has no fixtures beside it"),
    pytest.mark.parametrize("name", ["mha", "gqa", "gqa_tied"]),
]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_logits_and_greedy_tokens_are_those_that_transformers_gave(case, device):
    model = Transformer(ModelConfig.build(case["config"])).to(device)
    model.init_weights(GOLDEN["seed"])
    with torch.no_grad():
        for name, gain in model.named_parameters():
            if name.endswith("norm.weight"):  # gains away from 1, so that a misplaced one shows
                gain.add_(initial_weight(f"{name}/gain", gain.shape, 0.2, GOLDEN["seed"]).to(device))
    logits = model(torch.tensor(case["tokens"], device=device)).detach().cpu()
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), rtol=0, atol=TOLERANCE)
    prompt, new = case["greedy"]["prompt"], case["greedy"]["tokens"]
    assert generate(model, [prompt], max_new_tokens=len(new)) == [new]


class Fixture:
    """One fixture: the model, the tensors that transformers gave for it, and its scalars."""

    def __init__(self, name):
        self.model = load_model(FIXTURES / name)
        self.tensors = load_file(FIXTURES / name / "reference.safetensors")
        self.scalars = json.loads((FIXTURES / "reference.json").read_text())["cases"][name]
        self.tokens = self.tensors["input_ids"].long()

    def mean_loss(self):
        """The mean cross-entropy of each next token, as the fixtures' gradients have it."""
        loss, n_targets = self.model.loss(self.tokens[:, :-1], self.tokens[:, 1:])
        return loss / n_targets


@pytest.fixture
def fixture(name):
    return Fixture(name)


def with_fixtures(test):
    for mark in needs_fixtures:
        test = mark(test)
    return test


@with_fixtures
def test_fixture_logits(fixture):
    logits = fixture.model(fixture.tokens)
    torch.testing.assert_close(logits, fixture.tensors["logits_f32"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(logits.double(), fixture.tensors["logits_f64"], rtol=0, atol=TOLERANCE)


@with_fixtures
def test_fixture_loss_and_every_gradient(fixture):
    loss = fixture.mean_loss()
    loss.backward()
    assert loss.item() == pytest.approx(fixture.scalars["f64"]["loss"], abs=2e-6)
    for name, parameter in fixture.model.named_parameters():
        expected = fixture.tensors[f"grad_f32.{name}"]
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=TOLERANCE, msg=name)


@with_fixtures
def test_fixture_padding_on_the_right_changes_nothing(fixture):
    mask = fixture.tensors["attention_mask_padded"]
    logits = fixture.model(fixture.tokens) * mask[..., None]
    torch.testing.assert_close(logits, fixture.tensors["logits_padded_f32"], rtol=0, atol=TOLERANCE)
    targets = fixture.tokens.masked_fill(mask == 0, -100)[:, 1:]
    loss, n_targets = fixture.model.loss(fixture.tokens[:, :-1], targets)
    assert (loss / n_targets).item() == pytest.approx(fixture.scalars["f64"]["loss_padded"], abs=2e-6)


@with_fixtures
def test_fixture_packed_documents_do_not_see_each_other(fixture):
    lengths = torch.tensor(fixture.scalars["packed_doc_lens"])
    ids = torch.repeat_interleave(torch.arange(3), lengths)[None]
    logits = fixture.model(fixture.tokens[:1], document_ids=ids)
    torch.testing.assert_close(logits, fixture.tensors["packed_logits_isolated_f32"], rtol=0, atol=TOLERANCE)


@with_fixtures
def test_fixture_five_steps_of_adamw(fixture):
    model = fixture.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for expected in fixture.scalars["adamw_loss_gradnorm"]:
        loss = fixture.mean_loss()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # AdamW divides by the gradient's size, so a rounding error of a tiny gradient is a whole step.
        assert [loss.item(), norm.item()] == pytest.approx(expected, rel=1e-4)
    weights = dict(model.named_parameters())
    for key, expected in fixture.tensors.items():
        if key.startswith("adamw5."):
            torch.testing.assert_close(
                weights[key.removeprefix("adamw5.")].detach(), expected, rtol=0, atol=1e-3
            )


@with_fixtures
def test_fixture_greedy_tokens(fixture):
    expected = fixture.scalars["greedy_24"]
    assert generate(fixture.model, [fixture.scalars["greedy_prompt"]], max_new_tokens=24) == [expected]


@with_fixtures
def test_fixture_token_mean_over_uneven_sequences(fixture):
    targets = fixture.tokens.masked_fill(fixture.tensors["attention_mask_padded"] == 0, -100)
    sums = [fixture.model.loss(fixture.tokens[i : i + 1, :-1], targets[i : i + 1, 1:]) for i in range(3)]
    mean = sum(loss for loss, _ in sums) / sum(n_targets for _, n_targets in sums)
    assert mean.item() == pytest.approx(fixture.scalars["accum_token_mean"], abs=2e-6)
    hidden = fixture.model.project(fixture.model.hidden(fixture.tokens[:, :-1])).flatten(0, 1)
    plain = functional.cross_entropy(hidden, targets[:, 1:].flatten())
    torch.testing.assert_close(mean, plain, rtol=1e-6, atol=0)
