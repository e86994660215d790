"""The forward pass: right against transformers and against its formulas, float32, greedy."""
import inspect
import math
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_kvcache

FIXTURE = np.load(Path(__file__).parent / "fixtures/logits-1M.npz")
CASES = [(FIXTURE[f"inputs_{i}"].tolist(), logits) for i, logits in enumerate(FIXTURE["logits"])]
TOLERANCE = 2e-4  # of logits up to 20: seen with two BLAS builds on two NumPys, 2e-5


def logits_without(model, ids):
    return gpt2.gpt2(ids, model.params, model.n_head)


def logits_with(model, ids, cuts=()):
    """The last logits when ids go through the cache in pieces, cut at the positions in cuts."""
    cache = gpt2_kvcache.kv_cache(model.params, model.n_head, len(ids))
    for start, end in zip([0, *cuts], [*cuts, len(ids)]):
        logits = gpt2_kvcache.gpt2(ids[start:end], model.params, model.n_head, cache)
    return logits


@pytest.mark.parametrize("logits_of", [logits_without, logits_with])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_logits_are_those_of_transformers(model, case, logits_of):
    ids, expected = CASES[case]
    np.testing.assert_allclose(logits_of(model, ids), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(12))
def test_logits_are_the_same_in_any_split_of_the_prompt(model, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(model.n_vocab, size=rng.integers(2, model.n_ctx + 1)).tolist()
    cuts = sorted({*rng.integers(1, len(ids), size=rng.integers(1, 12)).tolist()})
    expected = logits_without(model, ids)
    np.testing.assert_allclose(logits_with(model, ids, cuts), expected, rtol=0, atol=TOLERANCE)


def test_logits_are_the_same_one_token_at_a_time(model):
    ids = np.random.default_rng(1).integers(model.n_vocab, size=200).tolist()
    logits = logits_with(model, ids, cuts=range(1, len(ids)))
    np.testing.assert_allclose(logits, logits_without(model, ids), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
def test_every_array_between_functions_is_float32(model, module, monkeypatch):
    dtypes, names = set(), set()

    def look_at(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for item in value:
                look_at(item)
        if isinstance(value, (np.ndarray, np.generic)):
            dtypes.add(value.dtype)

    def recorded(name, function):
        def wrapper(*args, **kwargs):
            result = function(*args, **kwargs)
            names.add(name)
            look_at([args, kwargs, result])
            return result
        return wrapper

    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__:
            monkeypatch.setattr(module, name, recorded(name, function))
    module.generate([1, 2, 3], model.params, model.n_head, 3)
    assert names >= {"gelu", "softmax", "layer_norm", "linear", "attention", "mha", "gpt2"}
    assert dtypes == {np.dtype(np.float32)}


@pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
class TestGenerate:
    def test_each_new_id_is_the_likeliest(self, model, module):
        ids = model.encoder.encode("When night came")
        for new in module.generate(ids, model.params, model.n_head, 5):
            assert new == np.argmax(logits_without(model, ids))
            ids.append(new)

    def test_exactly_as_many_as_asked_for_also_past_endoftext(self, model, module):
        new = module.generate(model.encoder.encode("1984"), model.params, model.n_head, 7)
        assert len(new) == 7
        assert model.n_vocab - 1 in new[:-1]  # this prompt's story ends after one more token

    def test_leaves_the_callers_list_alone(self, model, module):
        ids = [5, 6]
        module.generate(ids, model.params, model.n_head, 2)
        assert ids == [5, 6]

    @pytest.mark.parametrize("n", [0, -1, 1.5, "3", None])
    def test_refuses_a_number_of_tokens_that_is_none(self, model, module, n):
        with pytest.raises(ValueError, match="whole number"):
            module.generate([1], model.params, model.n_head, n)

    def test_refuses_an_empty_prompt(self, model, module):
        with pytest.raises(ValueError, match="empty"):
            module.generate([], model.params, model.n_head, 1)

    def test_refuses_more_than_the_context_and_says_the_numbers(self, model, module):
        with pytest.raises(ValueError, match=r"\b500\b.*\b13\b.*\b512\b"):
            module.generate([1] * 500, model.params, model.n_head, 13)


@pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
class TestFormulas:
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32) * 3

    def check(self, found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32

    def test_gelu(self, module):
        x = self.x.astype(np.float64)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        self.check(module.gelu(self.x), 0.5 * x * (1 + np.tanh(inner)))

    def test_softmax(self, module):
        e = np.exp(self.x.astype(np.float64))
        self.check(module.softmax(self.x), e / e.sum(axis=-1, keepdims=True))

    def test_softmax_of_large_numbers(self, module):
        self.check(module.softmax(np.float32([[1000, 1000, -np.inf]])), [[0.5, 0.5, 0]])

    def test_layer_norm(self, module):
        x, g, b = self.x.astype(np.float64), self.x[0, 0], self.x[0, 1]
        variance = x.var(axis=-1, keepdims=True)
        expected = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-5) * g + b
        self.check(module.layer_norm(self.x, g, b), expected)

    def test_attention_is_that_of_each_head_by_itself(self, module):
        q, k, v = self.x[:, :2], self.x, self.x + 1
        expected = []
        for head in range(3):
            scores = q[head].astype(np.float64) @ k[head].T / math.sqrt(8)
            scores[0, 4] = -np.inf
            e = np.exp(scores)
            expected.append(e / e.sum(axis=-1, keepdims=True) @ v[head])
        self.check(module.attention(q, k, v, module.causal_mask(2, 5)), expected)

    def test_functions_leave_their_arguments_alone(self, module):
        before, ones = self.x.copy(), np.ones(8, np.float32)
        module.gelu(self.x), module.softmax(self.x), module.layer_norm(self.x, ones, ones)
        module.attention(self.x, self.x, self.x, module.causal_mask(5, 5))
        module.linear(self.x, np.eye(8, dtype=np.float32), ones)
        assert np.array_equal(self.x, before)

    @pytest.mark.parametrize(("n_q", "n_k"), [(1, 1), (1, 6), (3, 3), (2, 5), (5, 6)])
    def test_causal_mask_lets_the_last_queries_see_their_past(self, module, n_q, n_k):
        mask = module.causal_mask(n_q, n_k)
        assert mask.shape == (n_q, n_k)
        for i in range(n_q):
            for j in range(n_k):
                assert mask[i, j] == (0 if j <= n_k - n_q + i else -np.inf)
