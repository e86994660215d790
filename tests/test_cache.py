"""The cache: it changes no token, it is real, and it is the only difference between the files."""
import tracemalloc

import numpy as np
import pytest

import gpt2
import gpt2_kvcache


def prompts(model):
    """(ids, n_tokens_to_generate) of 110 prompts of 1 to 511 tokens; 12 fill the whole context."""
    rng = np.random.default_rng(0)
    text = model.encoder.encode((" When night came, the king's youngest son said: 'I will go'; "
                                 "and he went.\n\nThere was once a beautiful princess.") * 20)
    lengths = [1, 2, 255, 256, 257, *rng.integers(1, 100, size=63), *rng.integers(1, 505, size=30)]
    for i, n in enumerate([*lengths, 511, 511, 510, 510, 509, 508, 507, 506, 505, 500, 490, 470]):
        start = int(rng.integers(len(text) - n))
        ids = text[start : start + n] if i % 2 else rng.integers(model.n_vocab, size=n).tolist()
        yield ids, model.n_ctx - n if i >= len(lengths) else 6


def test_ids_are_the_same_with_and_without_for_many_prompts(model):
    n_prompts = n_full = 0
    for ids, n in prompts(model):
        cached = gpt2_kvcache.generate(ids, model.params, model.n_head, n)
        without = gpt2.generate(ids, model.params, model.n_head, n)
        for i, pair in enumerate(zip(without, cached)):
            if pair[0] != pair[1]:
                logits = gpt2.gpt2([*ids, *without[:i]], model.params, model.n_head)
                second, first = np.partition(logits, -2)[-2:]
                pytest.fail(f"prompt {ids}: token {i} is {pair[0]} without and {pair[1]} with a "
                            f"cache; the top two logits are {first - second:.2e} apart")
        n_prompts, n_full = n_prompts + 1, n_full + (len(ids) + n == model.n_ctx)
    assert n_prompts >= 100 and n_full >= 10


def filled_cache(model, ids, n_tokens, unwritten=0.0):
    cache = gpt2_kvcache.kv_cache(model.params, model.n_head, n_tokens)
    cache["k"].fill(unwritten)
    cache["v"].fill(unwritten)
    gpt2_kvcache.gpt2(ids, model.params, model.n_head, cache)
    return cache


def test_nan_in_unwritten_positions_changes_nothing(model):
    logits = [gpt2_kvcache.gpt2([9], model.params, model.n_head,
                                filled_cache(model, [1, 2, 3], 20, unwritten))
              for unwritten in (0.0, np.nan)]
    assert np.array_equal(*logits)


def test_rows_of_past_tokens_stay_bitwise_the_same(model):
    cache = filled_cache(model, [1, 2, 3], 10)
    for n_past in range(3, 10):
        k, v = cache["k"][:, :, :n_past].tobytes(), cache["v"][:, :, :n_past].tobytes()
        gpt2_kvcache.gpt2([n_past], model.params, model.n_head, cache)
        assert cache["k"][:, :, :n_past].tobytes() == k
        assert cache["v"][:, :, :n_past].tobytes() == v
        assert cache["k"][:, :, n_past].any(axis=(1, 2)).all()  # and the new row is written


def test_arrays_of_the_cache_are_never_replaced(model):
    cache = filled_cache(model, [1, 2, 3], 10)
    k, v = cache["k"], cache["v"]
    gpt2_kvcache.gpt2([4, 5], model.params, model.n_head, cache)
    gpt2_kvcache.gpt2([6], model.params, model.n_head, cache)
    assert cache["k"] is k and cache["v"] is v
    assert cache["n_past"] == 6


def test_a_decode_step_copies_no_layer_of_the_cache(model):
    cache = filled_cache(model, [1] * 500, 502)
    gpt2_kvcache.gpt2([1], model.params, model.n_head, cache)
    tracemalloc.start()
    gpt2_kvcache.gpt2([1], model.params, model.n_head, cache)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < cache["k"][0].nbytes / 2


def rows_through_c_attn(model, module, monkeypatch, n_prompt, n_tokens):
    """The number of rows that go through the first layer's c_attn, call by call."""
    rows, linear = [], module.linear

    def recorded(x, w, b):
        if w is model.params["blocks"][0]["attn"]["c_attn"]["w"]:
            rows.append(len(x))
        return linear(x, w, b)

    monkeypatch.setattr(module, "linear", recorded)
    module.generate([7] * n_prompt, model.params, model.n_head, n_tokens)
    return rows


def test_the_prompt_goes_through_once_and_then_one_row_a_step(model, monkeypatch):
    assert rows_through_c_attn(model, gpt2_kvcache, monkeypatch, 5, 4) == [5, 1, 1, 1]


def test_a_long_prompt_goes_through_in_chunks(model, monkeypatch):
    monkeypatch.setattr(gpt2_kvcache, "CHUNK", 100)
    assert rows_through_c_attn(model, gpt2_kvcache, monkeypatch, 250, 2) == [100, 100, 50, 1]


def test_without_a_cache_all_rows_go_through_in_each_step(model, monkeypatch):
    assert rows_through_c_attn(model, gpt2, monkeypatch, 5, 4) == [5, 6, 7, 8]


def test_room_for_exactly_the_positions_that_the_run_needs(model, monkeypatch):
    caches, kv_cache = [], gpt2_kvcache.kv_cache

    def recorded(*args):
        caches.append(kv_cache(*args))
        return caches[-1]

    monkeypatch.setattr(gpt2_kvcache, "kv_cache", recorded)
    gpt2_kvcache.generate([1, 2, 3], model.params, model.n_head, 5)
    (cache,) = caches
    d_head = model.n_embd // model.n_head
    assert cache["k"].shape == cache["v"].shape == (model.n_layer, model.n_head, 7, d_head)
    assert cache["n_past"] == 7


def test_two_caches_do_not_know_of_each_other(model):
    def step(cache, token):
        return gpt2_kvcache.gpt2([token], model.params, model.n_head, cache)

    alone = filled_cache(model, [1, 2, 3], 10)
    expected = [step(alone, token) for token in (4, 5, 6)]  # before there is another cache
    one, two = filled_cache(model, [1, 2, 3], 10), filled_cache(model, [400, 500], 10)
    for token, logits in zip((4, 5, 6), expected):
        step(two, token + 100)
        assert np.array_equal(step(one, token), logits)


def test_more_tokens_than_the_cache_has_room_for_are_refused(model):
    cache = filled_cache(model, [1, 2, 3], 4)
    with pytest.raises(ValueError):
        gpt2_kvcache.gpt2([4, 5], model.params, model.n_head, cache)
