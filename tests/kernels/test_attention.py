import pytest
import torch

from dsllm.kernels import attention_launch, check
from dsllm.kernels.attention import (
    attention,
    attention_formula,
    cached_attention,
    document_ends,
    document_lengths,
    document_starts,
)
from dsllm.kernels.attention_blocks import attention_blocks
from dsllm.kernels.attention_cases import ATTENTION_SHAPES
from dsllm.kernels.attention_launch import KERNELS, Launch, launch_for
from dsllm.kernels.attention_triton import builds, find_bounds


def random_inputs(batch, seq_len, n_heads, n_kv_heads, head_dim, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, seq_len, heads, head_dim, generator=generator)
        for heads in (n_heads, n_kv_heads, n_kv_heads)
    ]


@pytest.mark.parametrize(("shape", "document_lengths"), ATTENTION_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, document_lengths, device):
    row = check.check_attention(shape, torch.float32, device, document_lengths=document_lengths)
    assert row.is_right, row


@pytest.mark.parametrize(
    ("shape", "document_lengths"),
    [((1, 83, 2, 1, 32), None), ((1, 83, 2, 1, 32), [[30, 53]]), ((1, 300, 4, 1, 16), [[129, 1, 170]])],
    ids=str,
)
def test_kernel_in_bf16_matches_the_formula_in_fp64(shape, document_lengths, device):
    row = check.check_attention(shape, torch.bfloat16, device, document_lengths=document_lengths)
    assert row.is_right, row


@pytest.fixture
def use_launch():
    """Use other blocks for as long as the test runs."""
    used = []

    def use(*key):
        used.append(key[:4])
        attention_launch.use_launch(*key)

    yield use
    for key in used:
        attention_launch.use_launch(*key, None)


@pytest.mark.parametrize("has_descriptors", [False, True], ids=["pointers", "descriptors"])
@pytest.mark.parametrize(("block_q", "block_k"), [(16, 32), (32, 16)], ids=str)
def test_any_blocks_give_the_same(block_q, block_k, has_descriptors, use_launch, device):
    for kernel in KERNELS:
        launch = Launch(block_q, block_k, 4, 1, has_descriptors)
        use_launch(kernel, "sm_90", 16, torch.float32, launch)
    row = check.check_attention((1, 75, 2, 1, 16), torch.float32, device, document_lengths=[[20, 1, 33, 21]])
    assert row.is_right, row


@pytest.mark.filterwarnings("ignore:All-NaN slice")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_other_documents_are_not_visited(backend, device):
    """Zero times NaN is NaN: masking alone would let it through."""
    q, k, v = (x.to(device) for x in random_inputs(1, 192, 2, 1, 16))
    ids = torch.repeat_interleave(torch.tensor([64, 64, 64]))[None].to(device)  # whole blocks of 32
    expected = attention_formula(q[:, 64:128], k[:, 64:128], v[:, 64:128])
    for x in (q, k, v):
        x[:, :64] = x[:, 128:] = float("nan")
        x.requires_grad_()
    out = attention(q, k, v, document_ids=ids, backend=backend)
    torch.testing.assert_close(out[:, 64:128], expected, rtol=1e-5, atol=2e-6)
    for grad in torch.autograd.grad(out[:, 64:128].sum(), (q, k, v)):
        assert grad[:, 64:128].isfinite().all()


def test_gradients_have_the_same_bits_twice(device):
    q, k, v = (x.to(device).requires_grad_() for x in random_inputs(1, 70, 4, 1, 16))
    runs = [torch.autograd.grad(attention(q, k, v, backend="triton").sum(), (q, k, v)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("document_lengths", [None, [[30, 1, 52], [83]], [[83], [83]]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_torch_path_and_its_gradients_match_the_formula_in_fp64(document_lengths, dtype, device):
    shape = (2, 83, 6, 2, 16)
    row = check.check_attention(shape, dtype, device, document_lengths=document_lengths, backend="torch")
    assert row.is_right, row


@pytest.mark.parametrize("document_lengths", [None, [[128, 1, 171], [300]], [[1] * 300, [50, 250]]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("head_dim", [16, 80])
def test_blocks_on_a_cpu_match_the_formula_in_fp64(document_lengths, dtype, head_dim):
    shapes = [(2, 300, heads, head_dim) for heads in (4, 2, 2, 4)]
    generator = torch.Generator().manual_seed(0)
    *inputs, dout = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    ids = starts = None
    if document_lengths is not None:
        ids = torch.stack([torch.repeat_interleave(torch.tensor(lengths)) for lengths in document_lengths])
        starts = document_starts(ids)
    error = check.worst_error(
        lambda q, k, v: attention_blocks(q, k, v, starts),
        lambda q, k, v: attention_formula(q, k, v, ids),
        inputs,
        dout,
    )
    # bf16: three units, as its backward pass takes the softmax's weights as they are after rounding.
    allowed = {torch.float32: check.TOLERANCES[torch.float32], torch.bfloat16: 3 * 2**-8}
    assert error <= allowed[dtype]


def test_rows_of_some_length_go_by_blocks_on_a_cpu(monkeypatch):
    went = []

    def blocks(*arguments):
        went.append(arguments[3] is not None)
        return attention_blocks(*arguments)

    monkeypatch.setattr("dsllm.kernels.attention_blocks.attention_blocks", blocks)
    rounded = [x.bfloat16() for x in random_inputs(1, 256, 1, 1, 32)]
    attention(*rounded)
    attention(*rounded, document_ids=torch.arange(256)[None] // 128)
    assert went == [False, True]
    attention(*rounded, document_ids=torch.arange(256)[None] // 64)  # short documents
    attention(*(x.bfloat16() for x in random_inputs(1, 256, 1, 1, 16)))
    attention(*(x.bfloat16() for x in random_inputs(1, 100, 1, 1, 96)))
    assert len(went) == 2


def test_formula_by_hand(device):
    # One channel, so the scale is 1. The second token's scores, 0 and ln 2, weigh its values by 1/3 and 2/3.
    q = torch.ones(1, 2, 1, 1, device=device)
    k = torch.tensor([1.0, 2.0], device=device).log().view(1, 2, 1, 1)
    v = torch.tensor([1.0, 4.0], device=device).view(1, 2, 1, 1)
    torch.testing.assert_close(attention_formula(q, k, v).flatten().cpu(), torch.tensor([1.0, 3.0]))


def test_query_heads_in_a_row_share_a_key_head(device):
    q, k, v = (x.to(device) for x in random_inputs(1, 7, 4, 2, 8))
    together = attention(q, k, v, backend="torch")
    for head in range(4):
        own = slice(head, head + 1), slice(head // 2, head // 2 + 1)
        alone = attention_formula(q[:, :, own[0]], k[:, :, own[1]], v[:, :, own[1]])
        torch.testing.assert_close(together[:, :, own[0]], alone)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_packed_documents_give_what_each_gives_alone(backend, device):
    q, k, v = (x.to(device) for x in random_inputs(1, 90, 2, 1, 16))
    ids = torch.repeat_interleave(torch.tensor([5, 5, 2, 5]), torch.tensor([20, 10, 33, 27]))[None].to(device)
    packed = attention(q, k, v, document_ids=ids, backend=backend)
    for begin, end in ((0, 30), (30, 63), (63, 90)):  # the id that returns is a new document
        alone = attention_formula(q[:, begin:end], k[:, begin:end], v[:, begin:end])
        torch.testing.assert_close(packed[:, begin:end], alone, rtol=1e-5, atol=2e-6)  # fp32, other order


def test_places_of_documents_by_hand():
    ids = torch.tensor([[4, 4, 7, 7, 7, 4], [1, 1, 1, 1, 1, 1]])
    assert document_starts(ids).tolist() == [[0, 0, 2, 2, 2, 5], [0] * 6]
    assert document_ends(ids).tolist() == [[2, 2, 5, 5, 5, 6], [6] * 6]
    assert document_lengths(ids) == [2, 3, 1, 6]


def test_new_tokens_see_cached_ones(device):
    q, k, v = (x.to(device) for x in random_inputs(2, 9, 4, 2, 8))
    is_visible = torch.arange(9) <= torch.arange(7, 9)[:, None]  # the last two tokens are new
    actual = cached_attention(q[:, 7:], k, v, is_visible.expand(2, 2, 9).to(device))
    torch.testing.assert_close(actual, attention_formula(q, k, v)[:, 7:], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("k_shape", "ids_shape"),
    [((1, 5, 2, 8), None), ((1, 4, 3, 8), None), ((1, 4, 2, 6), None), ((1, 4, 2, 8), (1, 5))],
    ids=["length", "heads", "width", "documents"],
)
def test_shapes_that_do_not_fit_are_refused(k_shape, ids_shape):
    q, k = torch.zeros(1, 4, 4, 8), torch.zeros(k_shape)
    ids = None if ids_shape is None else torch.zeros(ids_shape, dtype=torch.int64)
    with pytest.raises(ValueError):
        attention(q, k, k, document_ids=ids)


def test_short_sequences_stay_in_fp32_under_autocast():
    """Autocast would round the factors again and take the slow path."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 33, 2, 16, generator=generator).bfloat16() for _ in range(3))
    expected = attention_formula(q, k, v)  # fp32 inside, rounded once
    with torch.autocast("cpu", torch.bfloat16):
        actual = attention(q, k, v, backend="torch")
    # one rounding to bf16 of nearly equal fp32 numbers: one unit in the last place at most, and rarely that
    assert (actual != expected).float().mean() < 0.01
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942"])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_every_machine_has_blocks(arch, head_dim):
    for kernel in KERNELS:
        launch = launch_for(kernel, arch, head_dim)
        assert launch.has_descriptors == (arch in {"sm_90", "sm_100"})
    cases = builds(arch, head_dim=head_dim, n_heads=4, n_kv_heads=2)
    assert len(cases) == 6
    # 4 rows of 4,096 queries on 4,096 keys, half of them hidden; 4 heads; two products of 2 head_dim each
    assert cases[0].work.flops == 4 * 4096 * 4097 // 2 * 4 * 2 * 2 * head_dim


def test_heads_that_need_padding_do_not_stream_by_descriptors():
    launch = Launch(64, 64, 4, 2, has_descriptors=True)
    assert launch.takes_descriptors(64)
    assert not launch.takes_descriptors(48)


def test_tuning_uses_the_fastest_blocks(use_launch):
    from dsllm.kernels.attention_tune import tune_attention

    calls = []

    def measure(call):  # the third candidate of each kernel wins; none but the shipped one runs
        calls.append(call)
        return 1.0 if len(calls) % 24 == 3 else 2.0

    for kernel in KERNELS:
        use_launch(kernel, "sm_90", 16, torch.float32, None)
    chosen = tune_attention(*random_inputs(1, 32, 1, 1, 16), measure=measure)
    assert set(chosen) == set(KERNELS)
    for kernel in KERNELS:
        assert launch_for(kernel, "sm_90", 16, torch.float32) == chosen[kernel]


def test_bounds_of_documents_are_found_once_and_again_when_the_ids_change():
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    starts, ends = find_bounds(ids)
    assert starts.tolist() == [[0, 0, 2, 2, 2]]
    assert ends.tolist() == [[2, 2, 5, 5, 5]]
    assert find_bounds(ids)[0] is starts
    ids[0, 2] = 0  # in place: the same tensor, other documents
    assert find_bounds(ids)[0].tolist() == [[0, 0, 0, 3, 3]]
    assert find_bounds(ids.clone())[1].tolist() == [[3, 3, 3, 5, 5]]


def test_bounds_of_documents_under_inference_mode():
    with torch.inference_mode():  # where tensors count no versions
        ids = torch.tensor([[0, 1]])
        assert find_bounds(ids)[0].tolist() == [[0, 1]]
        ids[0, 1] = 0
        assert find_bounds(ids)[0].tolist() == [[0, 0]]
