import dataclasses

import pytest
import torch
from torch.nn import functional

from dsllm.model.transformer import Transformer, initial_weight


def make_model(config, device, **options):
    model = Transformer(config, **options).to(device)
    model.init_weights(0)
    return model


def random_tokens(config, device, *, batch=2, seq_len=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, seq_len), generator=generator).to(device)


def test_parameters_have_llamas_names(tiny_config):
    names = {name for name, _ in Transformer(dataclasses.replace(tiny_config, n_layers=1)).named_parameters()}
    assert names == {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_weights_are_nan_until_they_are_filled(tiny_config, device):
    model = Transformer(tiny_config).to(device)
    assert model(random_tokens(tiny_config, device)).isnan().all()
    model.init_weights(0)
    assert model(random_tokens(tiny_config, device)).isfinite().all()


def test_initial_weights_follow_the_seed_and_the_name_alone(tiny_config):
    first, again, other = (Transformer(tiny_config) for _ in range(3))
    torch.manual_seed(1)
    first.init_weights(5)
    torch.manual_seed(2)
    again.init_weights(5)
    other.init_weights(6)
    for (name, one), two, three in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, two), name
        assert torch.equal(one, three) == name.endswith("norm.weight"), name
        assert torch.equal(one, initial_weight(name, one.shape, tiny_config.init_std, 5)), name


def test_initial_weights_have_the_stated_spread():
    weight = initial_weight("model.layers.3.mlp.up_proj.weight", torch.Size((500, 400)), 0.006, 0)
    assert weight.mean().abs() < 0.006 * 5 / 200_000**0.5  # five standard errors
    assert weight.std().item() == pytest.approx(0.006, rel=5 / (2 * 200_000) ** 0.5)


def test_a_token_does_not_see_later_ones(tiny_config, device):
    model, tokens = make_model(tiny_config, device), random_tokens(tiny_config, device)
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % tiny_config.vocab_size
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_packed_documents_give_the_logits_of_each_alone(tiny_config, device):
    model, tokens = make_model(tiny_config, device), random_tokens(tiny_config, device, batch=1)
    ids = torch.repeat_interleave(torch.tensor([8, 3, 9]))[None].to(device)
    alone = torch.cat([model(part) for part in tokens.split([8, 3, 9], dim=1)], dim=1)
    restarted = torch.cat([torch.arange(n) for n in (8, 3, 9)])[None].to(device)
    packed = model(tokens, document_ids=ids)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)  # RoPE's fp32 angles differ
    torch.testing.assert_close(model(tokens, positions=restarted, document_ids=ids), alone)


@pytest.mark.parametrize("packs", [False, True], ids=["whole", "packed"])
def test_kernels_and_formulas_make_the_same_model(tiny_config, device, packs):
    tokens = random_tokens(tiny_config, device)
    ids = (torch.arange(20, device=device) >= 11).expand(2, 20) if packs else None
    results = {}
    for backend in ("torch", "triton"):
        model = make_model(tiny_config, device, backend=backend)
        loss, n_targets = model.loss(
            tokens[:, :-1], tokens[:, 1:], document_ids=None if ids is None else ids[:, 1:]
        )
        (loss / n_targets).backward()
        results[backend] = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    for formula, kernel in zip(results["torch"], results["triton"], strict=True):
        torch.testing.assert_close(kernel, formula, rtol=1e-4, atol=1e-6)  # fp32 sums in other orders


def test_loss_is_the_cross_entropy_of_the_logits(tiny_config, device):
    model, tokens = make_model(tiny_config, device), random_tokens(tiny_config, device)
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = -100
    loss, n_targets = model.loss(tokens, targets)
    expected = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert n_targets.item() == 2 * 19


def test_tied_embeddings_are_one_parameter_with_both_gradients(tiny_config, device):
    config = dataclasses.replace(tiny_config, tie_embeddings=True)
    tied, untied = make_model(config, device), make_model(tiny_config, device)
    tied.load_state_dict({k: v for k, v in untied.state_dict().items() if k != "lm_head.weight"})
    untied.lm_head.weight.data = untied.model.embed_tokens.weight.data.clone()
    tokens = random_tokens(config, device)
    for model in (tied, untied):
        model.loss(tokens[:, :-1], tokens[:, 1:])[0].backward()
    assert "lm_head.weight" not in tied.state_dict()
    both = untied.model.embed_tokens.weight.grad + untied.lm_head.weight.grad
    torch.testing.assert_close(tied.model.embed_tokens.weight.grad, both, rtol=1e-4, atol=1e-5)


def test_autocast_computes_in_bf16_and_keeps_fp32_gradients(tiny_config, device):
    model, tokens = make_model(tiny_config, device), random_tokens(tiny_config, device)
    exact = model.loss(tokens[:, :-1], tokens[:, 1:])[0].detach()
    with torch.autocast(device, dtype=torch.bfloat16):
        loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.testing.assert_close(loss.detach(), exact, rtol=2**-8, atol=0)  # bf16's unit
    assert loss != exact
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_dropped_layers_leave_the_others_their_names(tiny_config):
    model = Transformer(tiny_config)
    del model.model.layers["0"]
    assert "model.layers.1.mlp.up_proj.weight" in model.state_dict()
    assert len(list(model.layers)) == 1
