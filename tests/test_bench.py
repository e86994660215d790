"""The benchmark's instrument: its arithmetic, and that it refuses to time outputs that differ."""
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import gpt2
import gpt2_kvcache

BENCH = Path(__file__).parent / "bench"
sys.path.insert(0, str(BENCH))

import benchmark  # noqa: E402
import costs  # noqa: E402
import weights  # noqa: E402

MHA = gpt2_kvcache.mha


@pytest.fixture
def measure(model, monkeypatch):
    monkeypatch.setattr(benchmark, "load_transformers", lambda *_: None)
    hparams = {"n_vocab": model.n_vocab, "n_ctx": model.n_ctx, "n_head": model.n_head}
    return lambda: benchmark.measure(model.params, hparams, n_prompts=(3, 40), n_tokens=5,
                                     drawn=(1, 20), rounds=2)


def test_every_round_times_each_step_and_all_is_reported_and_drawn(model, measure):
    rows = measure()
    assert [row["n_prompt"] for row in rows] == [1, 3, 20, 40]
    assert [row["n_tokens"] for row in rows] == [2, 5, 2, 5]
    for row in rows:
        for file in benchmark.FILES:
            assert [len(run) for run in row[file]] == 2 * [row["n_tokens"]]
    startup = {"gpt2.py": [0.5, 0.5], "gpt2_kvcache.py": [0.25, 0.25]}
    text = benchmark.report(rows, startup, model.params)
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["3", "40"]
    assert "gpt2.py 0.50 s, gpt2_kvcache.py 0.25 s" in text and "left out" in text
    assert benchmark.details(rows, startup).count("gpt2.py: prefill") == len(rows)
    svg = ElementTree.fromstring(benchmark.draw(rows))
    assert any((element.text or "").startswith("gpt2_kvcache.py: ") for element in svg.iter())


def keys_forgotten(x, c_attn, c_proj, n_head, layer_kv, n_past):
    layer_kv[0, :, :n_past] = 0
    return MHA(x, c_attn, c_proj, n_head, layer_kv, n_past)


def one_slot_early(x, c_attn, c_proj, n_head, layer_kv, n_past):
    return MHA(x, c_attn, c_proj, n_head, layer_kv, max(n_past - 1, 0))


@pytest.mark.parametrize("broken", [keys_forgotten, one_slot_early])
def test_a_broken_cache_stops_the_measuring(measure, monkeypatch, broken):
    monkeypatch.setattr(gpt2_kvcache, "mha", broken)
    with pytest.raises(benchmark.Differs, match="without and with a cache"):
        measure()


def test_equal_ids_do_not_hide_different_logits():
    run, other = ([7], [np.float32([0, 1])], []), ([7], [np.float32([0.1, 1])], [])
    benchmark.check_same("", run, run)
    with pytest.raises(benchmark.Differs):
        benchmark.check_same("", run, other)


def test_limit_is_the_bytes_by_the_bandwidth(model):
    v, e, n_layer = model.n_vocab, model.n_embd, model.n_layer
    numbers = n_layer * (12 * e * e + 13 * e) + 2 * e + v * e + e + 2 * n_layer * e * 100
    assert benchmark.limit(model.params, 100, bandwidth=1e9) == pytest.approx(4 * numbers / 1e9)


def test_where_rounds_spread_too_wide_there_is_no_figure():
    assert benchmark.told([0.9, 1, 1.1]) == "1.00" and benchmark.told([0.9, 1, 1.2]) == "noisy"
    assert benchmark.ratio([4, 4], [2, 2]) == "2.00" and benchmark.ratio([4, 4], [1, 3]) == "noisy"
    row = {"n_prompt": 3, "n_tokens": 2, "variants": None, "products": [1], "bandwidth": [1],
           "transformers": [], "generate": [], "gpt2.py": [[1, 1]] * 3}
    params = weights.random_params(n_vocab=5, n_ctx=4, n_embd=8, n_layer=1)
    for steps, noisy in ((1, 1, 1), False), ((1, 1, 2), True):
        rows = [row | {"gpt2_kvcache.py": [[1, step] for step in steps]}]
        assert ("TOO NOISY" in benchmark.report(rows, {}, params)) == noisy


def test_costs_are_those_of_the_code():
    assert costs.BLOCK == gpt2.BLOCK
    assert costs.weight_bytes(12, 768) == 4 * 124_439_808
    printed = subprocess.check_output([sys.executable, BENCH / "costs.py"], text=True).split("\n")
    assert " ".join(printed[2].split()) == "124M 12 12 768 64 498 73.7 75.5 97.9 0.14"
