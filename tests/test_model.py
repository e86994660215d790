"""The forward pass: right against transformers and against its formulas, float32, greedy."""
import inspect
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_kvcache
from utils import UserError

FIXTURE = np.load(Path(__file__).parent / "fixtures/logits-1M.npz")
CASES = [(FIXTURE[f"inputs_{i}"].tolist(), logits) for i, logits in enumerate(FIXTURE["logits"])]

pytestmark = pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])


def logits_of(model, module, ids):
    if module is gpt2:
        return gpt2.gpt2(ids, **model.params, n_head=model.n_head)
    kv_cache = module.empty_kv_cache(model.params, model.n_head, len(ids))
    return module.gpt2(ids, **model.params, n_head=model.n_head, kv_cache=kv_cache, n_past=0)


@pytest.mark.parametrize(("ids", "expected"), CASES, ids=[f"{len(ids)} ids" for ids, _ in CASES])
def test_logits_are_those_of_transformers(model, module, ids, expected):
    # of logits up to 18; seen on two NumPys with OpenBLAS's kernels for six CPUs: 2e-5
    np.testing.assert_allclose(logits_of(model, module, ids), expected, rtol=0, atol=1e-4)


def test_positions_beyond_the_context_raise(model, module):
    with pytest.raises(IndexError, match="512"):
        logits_of(model, module, [1] * 513)


def arrays(value):
    """All arrays and NumPy scalars in value."""
    if isinstance(value, (np.ndarray, np.generic)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from arrays(item)


def watch(module, monkeypatch, around):
    """From now on around(function, args, kwargs) stands for each function that module defines."""
    functions = inspect.getmembers(module, inspect.isfunction)
    for name, function in [pair for pair in functions if pair[1].__module__ == module.__name__]:
        monkeypatch.setattr(module, name, lambda *args, f=function, **kw: around(f, args, kw))


def test_every_array_between_functions_is_float32(model, module, monkeypatch):
    called = set()

    def around(function, args, kwargs):
        result = function(*args, **kwargs)
        called.add(function.__name__)
        assert {array.dtype for array in arrays([args, kwargs, result])} == {np.dtype(np.float32)}
        return result

    watch(module, monkeypatch, around)
    module.generate([1, 2, 3], model.params, model.n_head, 3)
    assert called >= {"gelu", "softmax", "layer_norm", "linear", "attention", "mha", "gpt2"}


def test_functions_leave_their_arguments_alone(model, module, monkeypatch):
    def around(function, args, kwargs):
        given = [args, {k: v for k, v in kwargs.items() if k not in ("kv_cache", "layer_kv")}]
        before = [array.copy() for array in arrays(given)]
        result = function(*args, **kwargs)
        for array, copy in zip(arrays(given), before, strict=True):
            assert np.array_equal(array, copy), f"{function.__name__} changes an argument"
        return result

    watch(module, monkeypatch, around)
    module.generate([1, 2, 3], model.params, model.n_head, 2)


class TestFormulas:
    """Against the same in float64, written as in the papers."""

    x = np.random.default_rng(0).standard_normal((2, 300, 8)).astype(np.float32) * 3

    def check(self, found, expected, tolerance=1e-6):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)

    def test_gelu(self, module):
        x = self.x.astype(np.float64)
        inner = (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)
        self.check(module.gelu(self.x), 0.5 * x * (1 + np.tanh(inner)))

    def test_softmax(self, module):
        e = np.exp(self.x.astype(np.float64))
        self.check(module.softmax(self.x), e / e.sum(axis=-1, keepdims=True))

    def test_softmax_of_large_numbers_does_not_overflow(self, module):
        self.check(module.softmax(np.float32([[1000, 1000, -np.inf]])), [[0.5, 0.5, 0]])

    def test_layer_norm(self, module):
        small, g, b = self.x / 1000, self.x[0, 0], self.x[0, 1]  # so that eps counts
        x = small.astype(np.float64)
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        expected = (x - x.mean(axis=-1, keepdims=True)) / deviation * g + b
        self.check(module.layer_norm(small, g, b), expected)

    # one token; less than a block; a block and more; the same after a past; decode
    @pytest.mark.parametrize(
        ("n_q", "n_k"), [(1, 1), (5, 5), (128, 128), (300, 300), (2, 5), (257, 300), (1, 300)])
    def test_attention(self, module, n_q, n_k):
        q, k, v = self.x[:, -n_q:], self.x[::-1, :n_k], self.x[:, :n_k] + 1
        scores = q.astype(np.float64) @ k.transpose(0, 2, 1) / 8**0.5
        is_later = np.arange(n_k) > np.arange(n_k - n_q, n_k)[:, None]
        e = np.where(is_later, 0, np.exp(scores))
        self.check(module.attention(q, k, v), e / e.sum(axis=-1, keepdims=True) @ v, 2e-5)


class TestGenerate:
    def test_each_new_id_is_the_likeliest(self, model, module):
        ids = model.encoder.encode("When night came")
        for new in module.generate(ids, model.params, model.n_head, 5):
            assert new == np.argmax(logits_of(model, module, ids))
            ids.append(new)

    def test_gives_exactly_n_tokens_also_past_endoftext(self, model, module):
        new = module.generate(model.encoder.encode("1984"), model.params, model.n_head, 7)
        assert len(new) == 7
        assert model.n_vocab - 1 in new[:-1]  # this prompt's story ends after one more token

    def test_leaves_the_callers_list_alone(self, model, module):
        ids = [5, 6]
        module.generate(ids, model.params, model.n_head, 2)
        assert ids == [5, 6]

    @pytest.mark.parametrize("n", [0, -1, 1.5, "3", None])
    def test_rejects_invalid_n_tokens(self, model, module, n):
        with pytest.raises(UserError, match="whole number"):
            module.generate([1], model.params, model.n_head, n)

    def test_rejects_an_empty_prompt(self, model, module):
        with pytest.raises(UserError, match="empty"):
            module.generate([], model.params, model.n_head, 1)

    @pytest.mark.parametrize("unknown", [-1, 2048])
    def test_rejects_ids_outside_the_vocabulary(self, model, module, unknown):
        with pytest.raises(UserError, match=rf"{unknown}\b.*\b2047\b"):
            module.generate([1, unknown], model.params, model.n_head, 1)

    def test_rejects_more_than_the_context_and_says_the_numbers(self, model, module):
        with pytest.raises(UserError, match=r"\b500\b.*\b13\b.*\b512\b"):
            module.generate([1] * 500, model.params, model.n_head, 13)
