"""What the benchmark compares with: the same ids from each program, and a time for each.

Runs with the other tests wherever transformers is installed.
"""
import benchmark
import machine
import peers
import pytest
from checkpoints import by_name
from measuring import FILES, timed_generate
from weights import random_params

HPARAMS = {"n_vocab": 64, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2, "n_inner": 128}
PROMPT, N_TOKENS = [7, 3, 60, 21, 7], 9


@pytest.fixture(scope="module")
def params():
    """Weights so large that tokens take turns in being the likeliest."""
    params = random_params(**HPARAMS)
    for array in by_name(params).values():
        array *= 10
    return params


def check(loaded, params):
    module = FILES["gpt2.py"]
    ours = timed_generate(module, PROMPT, params, HPARAMS["n_head"], N_TOKENS)
    assert len(set(ours.ids)) > 3
    for name, timed in loaded.items():
        run = timed(PROMPT, n_tokens=N_TOKENS)
        benchmark.check_same(name, run, ours)
        assert len(run.seconds) == N_TOKENS and min(run.seconds) > 0


def test_transformers_has_four_loops_and_generate(params, monkeypatch):
    n_threads = []
    monkeypatch.setattr("torch.set_num_threads", n_threads.append)
    loaded = peers.transformers(params, HPARAMS)
    assert [name.startswith(peers.LOOP) for name in loaded] == 4 * [True] + [False]
    check(loaded, params)
    (model,) = loaded["transformers, generate()"].args
    assert model.config._attn_implementation == "sdpa"  # not that of the loop before
    assert n_threads == [machine.n_threads()]


def test_llama_cpp(params):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    check(peers.llama_cpp(params, HPARAMS), params)
