"""The cache: it changes no token, it is real, and it is the only difference between the files."""
import difflib
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gpt2
import gpt2_kvcache


def test_ids_are_the_same_with_and_without_cache(model):
    """For 110 prompts of 1 to 511 tokens, of which 12 fill the whole context."""
    rng = np.random.default_rng(0)
    text = model.encoder.encode("When night came, the king's son said: 'I will go';\n\n" * 40)
    lengths = [1, 2, 127, 128, 129, *rng.integers(1, 100, size=63), *rng.integers(1, 505, size=30)]
    for i, n in enumerate([*lengths, 511, 511, 510, 510, 509, 508, 507, 506, 505, 500, 490, 470]):
        start, n_new = int(rng.integers(len(text) - n)), model.n_ctx - n if i >= len(lengths) else 6
        ids = text[start : start + n] if i % 2 else rng.integers(model.n_vocab, size=n).tolist()
        cached = gpt2_kvcache.generate(ids, model.params, model.n_head, n_new)
        without = gpt2.generate(ids, model.params, model.n_head, n_new)
        for j, pair in enumerate(zip(without, cached, strict=True)):
            if pair[0] != pair[1]:
                second, first = np.partition(logits_without(model, [*ids, *without[:j]]), -2)[-2:]
                pytest.fail(f"prompt {ids}: token {j} is {pair[0]} without and {pair[1]} with a "
                            f"cache; the top two logits are {first - second:.2e} apart")


def logits_without(model, ids):
    return gpt2.gpt2(ids, **model.params, n_head=model.n_head)


def empty(model, n_tokens, unwritten=np.nan):
    cache = gpt2_kvcache.empty_kv_cache(model.params, model.n_head, n_tokens)
    cache.fill(unwritten)
    return cache


def feed(model, ids, cache, n_past=0, cuts=()):
    """The last logits, with ids in pieces that begin at 0 and at cuts."""
    for i, j in zip([0, *cuts], [*cuts, len(ids)]):
        logits = gpt2_kvcache.gpt2(ids[i:j], **model.params, n_head=model.n_head, kv_cache=cache,
                                   n_past=n_past + i)
    return logits


def check(logits, expected, atol=1e-4):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


class TestLogits:
    @pytest.mark.parametrize(("n_ids", "n_pieces"), [
        (2, 2), (129, 2), (300, 2), (512, 2), (512, 3), (400, 5), (512, 9), (256, 20),
        pytest.param(150, 150, id="one token at a time")])
    def test_any_split_of_the_prompt_gives_same_logits(self, model, n_ids, n_pieces):
        rng = np.random.default_rng(n_ids + n_pieces)
        ids = rng.integers(model.n_vocab, size=n_ids).tolist()
        cuts = sorted(rng.choice(range(1, n_ids), n_pieces - 1, replace=False).tolist())
        check(feed(model, ids, empty(model, n_ids), cuts=cuts), logits_without(model, ids))

    def test_float64_logits_agree_to_1e_12(self, model):
        def float64(tree):
            if isinstance(tree, dict):
                return {name: float64(part) for name, part in tree.items()}
            return [*map(float64, tree)] if isinstance(tree, list) else tree.astype(np.float64)

        exact, ids = SimpleNamespace(params=float64(model.params), n_head=model.n_head), range(200)
        logits = feed(exact, ids, empty(model, 200).astype(np.float64), cuts=[3, 140, 199])
        check(logits, logits_without(exact, ids), atol=1e-12)

    def test_rewound_cache_gives_same_logits(self, model):
        cache = empty(model, 10)
        feed(model, [1, 2, 3, 4, 5, 6], cache)
        check(feed(model, [7, 8], cache, n_past=3), logits_without(model, [1, 2, 3, 7, 8]))

    def test_interleaved_forks_of_a_cache_give_same_logits(self, model):
        one = empty(model, 6)
        feed(model, [1, 2, 3], one)
        two = one.copy()
        for n in (4, 5, 6):
            for cache, ids in (one, [1, 2, 3, 4, 5, 6]), (two, [1, 2, 3, 7, 8, 9]):
                check(feed(model, [ids[n - 1]], cache, n - 1), logits_without(model, ids[:n]))


class TestCache:
    def test_nan_in_unwritten_positions_changes_nothing(self, model):
        caches = empty(model, 20, 0), empty(model, 20, np.nan)
        assert np.array_equal(*(feed(model, [1, 2, 3, 9], cache, cuts=[3]) for cache in caches))

    def test_only_rows_of_new_tokens_are_written_in_the_callers_array(self, model):
        cache = empty(model, 9)
        feed(model, [1, 2, 3], cache)
        past = cache[:, :, :, :3].tobytes()
        feed(model, [4, 5], cache, n_past=3)
        assert cache[:, :, :, :3].tobytes() == past
        assert np.isfinite(cache[:, :, :, 3:5]).all() and np.isnan(cache[:, :, :, 5:]).all()

    # too many for the room; one into a full cache; beyond the context
    @pytest.mark.parametrize(("room", "n_past", "n_new"), [(4, 3, 2), (4, 4, 1), (520, 511, 2)])
    def test_rejects_tokens_without_room_and_stays_good(self, model, room, n_past, n_new):
        cache, ids = empty(model, room), range(n_past)
        feed(model, ids, cache)
        before = cache.tobytes()
        with pytest.raises(IndexError):
            feed(model, [9] * n_new, cache, n_past)
        assert cache.tobytes() == before
        check(feed(model, ids[-1:], cache, n_past - 1), logits_without(model, ids))

    @pytest.mark.parametrize(("n_layer", "n_head"), [(3, 4), (5, 4), (4, 1), (4, 2), (4, 8)])
    def test_rejects_cache_of_another_model_and_leaves_it_unchanged(self, model, n_layer, n_head):
        cache = np.full((n_layer, 2, n_head, 9, model.n_embd // n_head), np.nan, np.float32)
        with pytest.raises((ValueError, IndexError)):
            feed(model, [1, 2, 3], cache)
        assert np.isnan(cache).all()

    def test_decode_step_copies_no_layer_of_the_cache(self, model):
        cache = empty(model, 502)
        feed(model, [1] * 501, cache, cuts=[500])
        tracemalloc.start()
        feed(model, [1], cache, n_past=501)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < cache[0].nbytes / 2

    def test_generate_allocates_room_for_exactly_its_tokens(self, model, monkeypatch):
        caches, empty_kv_cache = [], gpt2_kvcache.empty_kv_cache
        monkeypatch.setattr(gpt2_kvcache, "empty_kv_cache",
                            lambda *args: caches.append(empty_kv_cache(*args)) or caches[-1])
        gpt2_kvcache.generate([1, 2, 3], model.params, model.n_head, 5)
        assert [cache.shape for cache in caches] == [(4, 2, 4, 3 + 5, 32)]


@pytest.mark.parametrize(("module", "expected"), [
    (gpt2_kvcache, [5, 1, 1, 1]), (gpt2, [5, 6, 7, 8])], ids=["with cache", "without cache"])
def test_rows_through_c_attn_in_each_step(model, monkeypatch, module, expected):
    calls, linear = [], module.linear
    monkeypatch.setattr(module, "linear",
                        lambda x, w, b: calls.append((w, len(x))) or linear(x, w, b))
    module.generate([7] * 5, model.params, model.n_head, 4)
    c_attn = model.params["blocks"][0]["attn"]["c_attn"]["w"]
    assert [n_rows for w, n_rows in calls if w is c_attn] == expected


def test_the_diff_and_the_files_stay_small():
    files = [Path(f.__file__).read_text("utf-8").splitlines() for f in (gpt2, gpt2_kvcache)]
    assert 0 < sum(line[0] in "+-" for line in [*difflib.unified_diff(*files, n=0)][2:]) <= 30
    assert len(files[0]) <= 130 and len(files[1]) <= 140
    assert max(len(line) for lines in files for line in lines) <= 100
