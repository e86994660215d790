"""The cache: it changes no token, it is real, and it is the only difference between the files."""
import subprocess
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from terminal import ROOT

import gpt2
import gpt2_kvcache


def logits_without(model, ids):
    return gpt2.gpt2(ids, **model.params, n_head=model.n_head)


def empty(model, n_tokens):
    """A cache in which NaN tells what is read before it is written."""
    cache = gpt2_kvcache.empty_kv_cache(model.params, model.n_head, n_tokens)
    cache.fill(np.nan)
    return cache


def feed(model, ids, cache, n_past=0):
    """The logits after ids, which follow the n_past tokens in cache."""
    return gpt2_kvcache.gpt2(
        ids, **model.params, n_head=model.n_head, kv_cache=cache, n_past=n_past)


def feed_in_pieces(model, ids, cache, cuts):
    """The logits after ids, cut before each index in cuts."""
    for begin, end in zip([0, *cuts], [*cuts, len(ids)]):
        logits = feed(model, ids[begin:end], cache, n_past=begin)
    return logits


def check(logits, expected, atol=1e-4):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


# ---- ids


def check_ids(model, ids, n_new):
    cached = list(gpt2_kvcache.generate(ids, model.params, model.n_head, n_new))
    without = list(gpt2.generate(ids, model.params, model.n_head, n_new))
    for j, pair in enumerate(zip(without, cached, strict=True)):
        if pair[0] != pair[1]:
            second, first = np.partition(logits_without(model, [*ids, *without[:j]]), -2)[-2:]
            pytest.fail(f"prompt {ids}: token {j} is {pair[0]} without and {pair[1]} with a "
                        f"cache; the top two logits are {first - second:.2e} apart")


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


# ---- logits


@pytest.mark.parametrize("n_ids, n_pieces", [
    (2, 2), (129, 2), (277, 2), (277, 3), (277, 9), (256, 20), (150, 150)])
def test_any_split_of_the_prompt_gives_same_logits(odd, n_ids, n_pieces):
    rng = np.random.default_rng(n_ids + n_pieces)
    ids = rng.integers(301, size=n_ids)
    cuts = np.sort(rng.choice(np.arange(1, n_ids, dtype=np.int32), n_pieces - 1, replace=False))
    check(feed_in_pieces(odd, ids, empty(odd, n_ids + 5), cuts), logits_without(odd, ids))


def test_float64_logits_agree_to_1e_12(odd):
    wte = odd.params["wte"].astype(np.float64)  # and so all that is computed from it
    exact = SimpleNamespace(params=odd.params | {"wte": wte}, n_head=4)
    cache = empty(odd, 200).astype(np.float64)
    logits = feed_in_pieces(exact, range(200), cache, cuts=[3, 140, 199])
    check(logits, logits_without(exact, range(200)), atol=1e-12)


def test_rewound_and_forked_caches_give_same_logits(odd):
    one = empty(odd, 6)
    feed(odd, [1, 2, 3, 9, 9], one)
    two = one.copy()
    for n in (3, 4, 5):
        for cache, ids in (one, [1, 2, 3, 4, 5, 6]), (two, [1, 2, 3, 7, 8, 9]):
            check(feed(odd, [ids[n]], cache, n_past=n), logits_without(odd, ids[: n + 1]))


# ---- the array


def test_cache_is_float32_and_has_room_for_n_tokens(odd):
    cache = gpt2_kvcache.empty_kv_cache(odd.params, np.int32(4), np.int64(9))
    assert (cache.shape, cache.dtype) == ((3, 2, 4, 9, 5), np.float32)


def test_cache_of_generate_has_room_for_exactly_what_is_fed(odd, monkeypatch):
    caches, empty_kv_cache = [], gpt2_kvcache.empty_kv_cache

    def recorded(*args):
        caches.append(empty_kv_cache(*args))
        return caches[-1]

    monkeypatch.setattr(gpt2_kvcache, "empty_kv_cache", recorded)
    list(gpt2_kvcache.generate([1, 2, 3], odd.params, 4, 6))
    assert [cache.shape[3] for cache in caches] == [3 + 6 - 1]


def test_cache_is_written_in_place_at_the_new_tokens_alone(odd):
    cache = empty(odd, 9)
    feed(odd, [1, 2, 3], cache)
    past = cache[:, :, :, :3].tobytes()
    feed(odd, [4, 5], cache, n_past=3)
    assert cache[:, :, :, :3].tobytes() == past
    assert np.isfinite(cache[:, :, :, 3:5]).all()
    assert np.isnan(cache[:, :, :, 5:]).all()


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


# ---- the difference between the files


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


def test_files_differ_in_few_lines():
    diff = subprocess.run(["diff", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT, capture_output=True)
    assert 0 < len([line for line in diff.stdout.splitlines() if line[:1] in b"<>"]) <= 36
