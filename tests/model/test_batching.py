import pytest
import torch

from dsllm.errors import ConfigError
from dsllm.model.batching import Batch, make_text
from dsllm.model.cache import PAGE_TOKENS, PagedCache
from dsllm.model.decoder import Decoder
from dsllm.model.generate import Prompt, generate, generate_each
from dsllm.model.sampling import Sampling
from dsllm.model.transformer import Transformer

CPU = torch.device("cpu")
SEQ_LEN = 160


@pytest.fixture(scope="module")
def decoder():
    from dsllm.model.config import ModelConfig

    config = ModelConfig(
        vocab_size=96, n_layers=2, d_model=32, d_ff=64, n_heads=4, n_kv_heads=2, head_dim=16,
        seq_len=SEQ_LEN, init_std=0.1,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(0)
    return Decoder(model)


def numbers(n, start=0):
    return [(7 * i + start) % 94 + 2 for i in range(n)]


def run(decoder, prompts, *, n_new=10, batch_seqs=8, cache_tokens=None):
    """Run a batch to its end; return the new tokens and the batch, and how many texts ran in each step."""
    sampling = Sampling(n_new)
    batch = Batch(decoder, sampling, batch_seqs=batch_seqs, cache_tokens=cache_tokens)
    texts = [
        make_text(i, prompt, seed=str(i), n_new=n_new, seq_len=SEQ_LEN, sampling=sampling)
        for i, prompt in enumerate(prompts)
    ]
    for text in texts:
        batch.add(text)
    n_running = [len(stepped) for stepped in batch.steps()]
    return [text.new_tokens for text in texts], batch, n_running


def alone(decoder, prompts, n_new=10):
    return [run(decoder, [prompt], n_new=n_new)[0][0] for prompt in prompts]


# --- pages ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tiny_config):
    return PagedCache(tiny_config, torch.float32, CPU, max_pages=40)


def test_memory_grows_with_what_is_used_and_pages_come_back(cache):
    assert cache.n_pages == 0
    first = cache.take(3)
    assert cache.n_used == 3
    assert cache.n_pages == cache.keys[0].shape[0] < 40
    second = cache.take(30)
    assert not set(first) & set(second)
    assert cache.take(8) is None  # 7 are left
    assert cache.n_used == 33
    cache.give_back(first)
    assert sorted(cache.take(10)) == sorted([*first, *range(33, 40)])
    assert cache.n_pages == 40


def test_a_shared_page_comes_back_with_its_last_user(cache):
    (page,) = cache.take(1)
    cache.share([page])
    cache.give_back([page])
    assert cache.n_used == 1
    cache.give_back([page])
    assert cache.n_used == 0


def test_a_known_beginning_is_found_page_by_page_and_token_by_token(cache):
    prompt = numbers(2 * PAGE_TOKENS + 10)
    pages = cache.take(3)
    nothing = cache.find(prompt)
    assert (nothing.pages, nothing.n_copied) == ((), 0)
    cache.remember(prompt, pages, nothing)
    found = cache.find([*prompt[: 2 * PAGE_TOKENS + 4], 1, 1, 1])
    assert (found.pages, found.copied_page, found.n_copied) == (tuple(pages[:2]), pages[2], 4)
    same = cache.find(prompt)  # its last token must be read
    assert (same.pages, same.n_copied) == (tuple(pages[:2]), 9)
    assert cache.find([1, *prompt]).pages == ()
    assert cache.find(prompt[: PAGE_TOKENS - 5]).n_copied == PAGE_TOKENS - 6


def test_known_pages_stay_until_their_room_is_needed(cache):
    prompt = numbers(PAGE_TOKENS + 1)
    pages = cache.take(2)
    cache.remember(prompt, pages, cache.find(prompt))
    cache.give_back(pages)
    assert cache.n_used == 0
    assert cache.find(prompt).pages == (pages[0],)
    cache.take(cache.n_pages - 1)  # all free ones, and the tail of the prompt
    assert cache.find(prompt).pages == (pages[0],)
    cache.take(1)
    assert cache.find(prompt).pages == ()


# --- texts ------------------------------------------------------------------------------------------------


def test_texts_join_and_leave_at_every_step(decoder):
    prompts = [numbers(n, start=n) for n in (3, 40, 1, 70, 33, 32)]
    sampling = Sampling(99)
    limits = (9, 2, 5, 1, 7, 3)
    asked = [Prompt(prompt, 0, n_new) for prompt, n_new in zip(prompts, limits, strict=True)]
    texts = dict(generate_each(decoder, asked, sampling, batch_seqs=2))
    expected = generate(decoder, prompts, max_new_tokens=9)
    assert texts == {i: tokens[: limits[i]] for i, tokens in enumerate(expected)}
    assert list(texts) != sorted(texts)  # a short one overtook a long one


def test_prompts_are_asked_for_when_a_place_is_free(decoder):
    n_asked = 0

    def coming():
        nonlocal n_asked
        for start in range(6):
            n_asked += 1
            yield Prompt(numbers(5, start), 0, 1 + start % 2)

    texts = generate_each(decoder, coming(), Sampling(4), batch_seqs=2)
    next(texts)
    assert n_asked == 2
    assert len(list(texts)) == 5


def test_no_more_run_than_are_allowed(decoder):
    prompts = [numbers(5, start) for start in range(7)]
    found, batch, n_running = run(decoder, prompts, batch_seqs=3)
    assert found == alone(decoder, prompts)
    assert max(n_running) == 3
    assert batch.cache.n_used == 0


def test_texts_that_the_cache_cannot_hold_wait_and_go_on_where_they_were(decoder):
    prompts = [numbers(PAGE_TOKENS - 2, start) for start in (1, 20, 40)]
    n_new = PAGE_TOKENS + 10  # each needs one page at first, three at the end; four are there
    found, batch, n_running = run(decoder, prompts, n_new=n_new, cache_tokens=4 * PAGE_TOKENS)
    assert found == alone(decoder, prompts, n_new)
    assert batch.cache.n_pages <= 4
    assert max(n_running) == 3
    assert min(n_running) == 1


def test_a_cache_too_small_for_a_prompt_is_refused(decoder):
    with pytest.raises(ConfigError, match="cache_tokens holds 32 tokens, but prompt 0 may become 60"):
        generate(decoder, [numbers(50)], max_new_tokens=10, cache_tokens=63)
    with pytest.raises(ConfigError, match="batch_seqs"):
        generate(decoder, [numbers(5)], max_new_tokens=1, batch_seqs=0)


# --- common beginnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_common", [PAGE_TOKENS - 7, PAGE_TOKENS, 2 * PAGE_TOKENS + 11])
@pytest.mark.parametrize("batch_seqs", [1, 2, 8])
def test_a_common_beginning_is_read_once(decoder, n_common, batch_seqs):
    common = numbers(n_common)
    prompts = [common + numbers(n, start=30 + n) for n in (6, 1, 4, 9, 35)]
    expected = alone(decoder, prompts)
    found, batch, _ = run(decoder, prompts, batch_seqs=batch_seqs)
    assert found == expected
    n_new_read = 5 * (10 - 1)  # the last new token of each is never read
    assert batch.n_read - n_new_read == n_common + 6 + 1 + 4 + 9 + 35


def test_equal_prompts_are_read_once_but_for_their_last_token(decoder):
    prompt = numbers(3 * PAGE_TOKENS)
    found, batch, _ = run(decoder, [prompt] * 4)
    assert found == alone(decoder, [prompt]) * 4
    assert batch.n_read - 4 * 9 == len(prompt) + 3
    # at most 3 pages and one for new tokens in the first; in the others the third page is a copy
    assert batch.cache.n_pages <= 16


def test_a_beginning_copied_from_a_copy_of_the_same_step_is_right(decoder):
    common = numbers(20)
    prompts = [common[:10] + numbers(30, 50), common + numbers(1, 60), common + numbers(9, 70)]
    assert run(decoder, prompts)[0] == alone(decoder, prompts)


def test_limits_of_repetition_depend_on_the_text_alone(decoder):
    prompts = [numbers(5), numbers(3, 40)]
    options = {"max_new_tokens": 30, "repetition_penalty": 1.2, "no_repeat_ngram": 2}
    both = generate(decoder, prompts, **options)
    assert both == [generate(decoder, [prompt], **options)[0] for prompt in prompts]
    for prompt, new in zip(prompts, both, strict=True):
        pairs = list(zip(prompt + new, (prompt + new)[1:], strict=False))
        assert len(set(pairs)) == len(pairs)
