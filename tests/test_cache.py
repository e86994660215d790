"""The cache: it changes no token, and it is real. README's example rewinds and forks it."""
import tracemalloc

import numpy as np
import pytest

import gpt2
import gpt2_kvcache


def empty(model, n_tokens):
    """A cache in which NaN tells what is read before it is written."""
    cache = gpt2_kvcache.empty_kv_cache(model.params, model.n_head, n_tokens)
    cache.fill(np.nan)
    return cache


def feed(model, ids, cache, n_past=0):
    """The logits after ids, which follow the n_past tokens in cache."""
    return gpt2_kvcache.gpt2(
        ids, **model.params, n_head=model.n_head, kv_cache=cache, n_past=n_past)


def check_ids(model, ids, n_new):
    without = list(gpt2.generate(ids, model.params, model.n_head, n_new))
    assert list(gpt2_kvcache.generate(ids, model.params, model.n_head, n_new)) == without, ids


def test_ids_are_the_same_after_60_prompts(model):
    """Random ids and text by turns, 1 to 511 of them; the last 8 fill the whole context."""
    rng = np.random.default_rng(0)
    text = model.encoder.encode("When night came, the king's son said: 'I will go';\n\n" * 40)
    some = [1, 2, 127, 128, 129, *rng.integers(1, 100, size=32), *rng.integers(1, 505, size=15)]
    for i, n in enumerate([*some, 511, 511, 510, 510, 509, 508, 505, 500]):
        start = rng.integers(len(text) - n)
        ids = text[start : start + n] if i % 2 else rng.integers(2048, size=n).tolist()
        check_ids(model, ids, n_new=4 if i < len(some) else 512 - n)


@pytest.mark.parametrize("n", [1, 128, 129, 200, 256, 276])
def test_ids_are_the_same_up_to_the_end_of_the_context(odd, n):
    check_ids(odd, np.random.default_rng(n).integers(301, size=n), n_new=277 - n)


@pytest.mark.parametrize("n_ids, n_pieces", [
    (2, 2), (129, 2), (277, 2), (277, 3), (277, 9), (256, 20), (150, 150)])
def test_any_split_of_the_prompt_gives_same_logits(odd, n_ids, n_pieces):
    rng = np.random.default_rng(n_ids + n_pieces)
    ids = rng.integers(301, size=n_ids)
    cuts = np.sort(rng.choice(np.arange(1, n_ids, dtype=np.int32), n_pieces - 1, replace=False))
    cache = empty(odd, n_ids + 5)
    for begin, end in zip([0, *cuts], [*cuts, n_ids]):
        logits = feed(odd, ids[begin:end], cache, n_past=begin)
    np.testing.assert_allclose(logits, gpt2.gpt2(ids, **odd.params, n_head=4), rtol=0, atol=1e-4)


# too many for the room; one into a full cache; after its end; before its beginning; and a position
# beyond the context
@pytest.mark.parametrize("n_slots, n_past, n_new, said", [
    (6, 5, 2, r"no slots 5:7 in kv_cache \(3, 2, 4, 6, 5\)"), (6, 6, 1, "6:7"), (6, 7, 1, "7:8"),
    (6, -1, 1, "-1:0"), (6, -6, 2, "-6:-4"), (300, 276, 2, "277")])
def test_refuses_tokens_without_room_and_stays_good(odd, n_slots, n_past, n_new, said):
    cache = empty(odd, n_slots)
    feed(odd, [1] * min(n_slots, 277), cache)
    before = cache.tobytes()
    with pytest.raises(IndexError, match=said):
        feed(odd, [9] * n_new, cache, n_past)
    assert cache.tobytes() == before


# first other layers, then other heads
@pytest.mark.parametrize("n_layer, n_head, d_head", [
    (2, 4, 5), (4, 4, 5), (3, 1, 20), (3, 5, 4), (3, 1, 5), (3, 3, 5), (3, 4, 1), (3, 4, 6)])
def test_cache_of_another_model_is_refused(odd, n_layer, n_head, d_head):
    with pytest.raises(ValueError):
        feed(odd, [1, 2, 3], np.zeros((n_layer, 2, n_head, 9, d_head), np.float32))


def test_cache_is_not_copied_in_a_decode_step(model):
    cache = np.zeros_like(empty(model, 512))
    tracemalloc.start()
    feed(model, [1], cache, n_past=511)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < cache[0].nbytes / 4


@pytest.mark.parametrize("module, expected", [
    (gpt2_kvcache, [5, 1, 1, 1]), (gpt2, [5, 6, 7, 8])])
def test_rows_through_c_attn_in_each_step(odd, monkeypatch, module, expected):
    n_rows, linear = [], module.linear
    c_attn = odd.params["blocks"][-1]["attn"]["c_attn"]

    def recorded(x, w, b):
        if w is c_attn["w"]:
            n_rows.append(len(x))
        return linear(x, w, b)

    monkeypatch.setattr(module, "linear", recorded)
    list(module.generate([7] * 5, odd.params, 4, 4))
    assert n_rows == expected
