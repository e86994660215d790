"""The forward pass: right against transformers, float32, greedy.

odd has n_vocab 301, n_ctx 277, n_embd 20, n_head 4; model (1M) 2048, 512, 128 and 4.
"""
import platform
import tracemalloc

import numpy as np
import pytest
from checkpoints import drawn, tiny_gpt2, write_model
from terminal import ROOT, finish

import gpt2
import gpt2_kvcache
from utils import UserError

FIXTURE = np.load(ROOT / "tests/fixtures/logits-1M.npz")

pytestmark = pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])


def logits_of(module, ids, params, n_head=4):
    if module is gpt2:
        return gpt2.gpt2(ids, **params, n_head=n_head)
    kv_cache = module.empty_kv_cache(params, n_head, len(ids))
    return module.gpt2(ids, **params, n_head=n_head, kv_cache=kv_cache, n_past=0)


def generate(module, *args):
    return list(module.generate(*args))


# ---- logits


@pytest.mark.parametrize("i", range(len(FIXTURE["logits"])))
def test_logits_are_those_of_transformers(model, module, i):
    # of logits up to 18; seen on two NumPys with OpenBLAS's kernels for six CPUs: 2e-5
    logits = logits_of(module, FIXTURE[f"inputs_{i}"].tolist(), model.params)
    np.testing.assert_allclose(logits, FIXTURE["logits"][i], rtol=0, atol=1e-4)
    assert logits.dtype == np.float32  # float64 anywhere on the way would make them float64


@pytest.mark.parametrize("ids, error, said", [
    ([1, -1, 2], IndexError, r"-1\b"), ([1, 301, 2], IndexError, r"\b301\b"),
    ([1] * 278, IndexError, r"\b277\b"), ([], ValueError, "empty")],
    ids=["below the vocabulary", "above it", "longer than the context", "empty"])
def test_logits_of_ids_that_cannot_run_raise(odd, module, ids, error, said):
    with pytest.raises(error, match=said):
        logits_of(module, ids, odd.params)


# ---- what those logits do not tell


def check(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# so small that eps counts; far from 0
@pytest.mark.parametrize("factor, offset, tolerance", [(1e-3, 0, 2e-6), (1, 1000, 2e-3)])
def test_layer_norm(module, factor, offset, tolerance):
    x, g, b = factor * drawn("x", (9, 300)) + np.float32(offset), drawn("g", 300), drawn("b", 300)
    exact = x.astype(np.float64)
    deviation = np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-5)
    expected = (exact - exact.mean(axis=-1, keepdims=True)) / deviation * g + b
    check(module.layer_norm(x, g, b), expected, tolerance)


def test_softmax_of_scores_beyond_the_range_of_exp(module):
    scores = np.float32([[1000, 1001, -np.inf], [-1000, -1000, -1000]])
    check(module.softmax(scores), [[0.26894142, 0.73105858, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_attention_gives_a_later_token_no_share_however_large_its_score(module):
    q, k, v = np.float32([[[1], [1]], [[0], [1e30]], [[3], [5]]])[:, None]
    check(module.attention(q, k, v), [[[3], [5]]])


# ---- costs: counted, not timed


def test_only_the_last_positions_logits_are_computed(odd, module):
    params = odd.params | {"wte": drawn("wte.weight", (250_000, 20))}
    tracemalloc.start()
    logits_of(module, [249_999] * 100, params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 250_000 * 4  # all 100 positions would take 100 MB


def test_gelu_calls_no_power(module):
    called = []

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs):
            called.append(ufunc)
            result = ufunc(*[np.asarray(value) for value in inputs])
            return result.view(Watched)

    module.gelu(np.ones(3, np.float32).view(Watched))
    assert np.tanh in called
    assert np.power not in called  # x**3 is 60 times as slow as x * x * x


SECOND_PREFILL = """
import sys
from resource import RUSAGE_SELF, getrusage
import {module} as module
from utils import load_encoder_hparams_and_params
_, hparams, params = load_encoder_hparams_and_params("wide", sys.argv[1])
ids = list(range(240)) * 4
for _ in range(2):
    before = getrusage(RUSAGE_SELF).ru_minflt
    next(module.generate(ids, params, hparams["n_head"], 1))
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back")
def test_second_prefill_gets_no_new_memory_from_the_system(module, tmp_path):
    sizes = {"n_embd": 768, "n_head": 12, "n_layer": 1}  # as wide as 124M
    write_model(tmp_path / "wide", tiny_gpt2(n_ctx=1024, **sizes), n_positions=1024, **sizes)
    n_page_faults, _, _ = finish("-c", SECOND_PREFILL.format(module=module.__name__), tmp_path)
    assert int(n_page_faults) < 100  # seen: 0, and 5,000 if glibc gives freed memory back


# ---- generate() and main()


def test_each_new_id_is_the_likeliest(odd, module):
    prompt = [3, 1, 4]
    new = generate(module, prompt, odd.params, 4, 20)
    assert (prompt, len(new)) == ([3, 1, 4], 20)
    for n in range(20):
        assert new[n] == np.argmax(logits_of(module, prompt + new[:n], odd.params))


def test_first_of_the_likeliest_is_chosen(odd, module):
    all_equal = odd.params | {"wte": np.zeros_like(odd.params["wte"])}
    assert generate(module, [3, 1, 4], all_equal, 4, 3) == [0, 0, 0]


@pytest.mark.parametrize("ids", [
    (0, 1, 2, 3, 4, 5, 6), range(7), np.arange(7), np.arange(7, dtype=np.uint16)])
def test_takes_ids_of_any_kind_and_numpys_integers(odd, module, ids):
    new = generate(module, ids, odd.params, np.int32(4), np.int64(5))
    assert new == generate(module, [0, 1, 2, 3, 4, 5, 6], odd.params, 4, 5)
    assert {type(i) for i in new} == {int}


@pytest.mark.parametrize("ids, n, said", [
    ([1], 0, "whole number"), ([1], -1, "whole number"), ([1], 1.5, "whole number"),
    ([1], "3", "whole number"), ([1], None, "whole number"), ([1], np.float32(2), "whole number"),
    ([1, -1], 1, r"-1\b.*\b300\b"), ([1, 301], 1, r"\b301\b.*\b300\b"),
    ([1] * 270, 8, r"\b270\b.*\b8\b.*\b277\b"), ([], 1, "empty")])
def test_rejects_what_cannot_run(odd, module, ids, n, said):
    with pytest.raises(UserError, match=said):
        generate(module, ids, odd.params, 4, n)


# 279 is <|endoftext|>, with which a new document begins
@pytest.mark.parametrize("prompt, ids", [("old", [78, 75, 67]), ("", [279])])
def test_main_continues_the_prompt_with_the_model_of_that_folder(odd, module, prompt, ids):
    pieces = module.main(
        prompt, n_tokens_to_generate=9, model_size="odd", models_dir=odd.models_dir)
    assert "".join(pieces) == odd.encoder.decode(generate(module, ids, odd.params, 4, 9))
