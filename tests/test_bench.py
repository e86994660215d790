"""compare.py and benchmark.py: what they print, and that they notice outputs that differ."""
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import benchmark
import compare
import measuring
import numpy as np
import peers
import pytest
import show_costs
import weights

import gpt2_kvcache

BENCH = Path(__file__).parent / "lesson"
MHA = gpt2_kvcache.mha
PICOGPT = """
import numpy as np
import sys
sys.path.insert(0, {root!r})
from gpt2 import gpt2


def generate(inputs, params, n_head, n_tokens_to_generate):
    from tqdm import tqdm

    for _ in tqdm(range(n_tokens_to_generate), "generating"):
        logits = gpt2(inputs, **params, n_head=n_head)
        inputs.append(np.argmax(logits))
    return inputs[len(inputs) - n_tokens_to_generate :]
"""


def run(script, *args, **environment):
    """The finished process of one of the scripts."""
    return subprocess.run([sys.executable, BENCH / script, *args], capture_output=True,
                          encoding="utf-8", env=os.environ | environment)


def keys_forgotten(x, c_attn, c_proj, n_head, layer_kv, n_past):
    layer_kv[0, :, :n_past] = 0
    return MHA(x, c_attn, c_proj, n_head, layer_kv, n_past)


def test_compare_prints_the_text_the_times_and_that_the_files_agree():
    done = run("compare.py", "The wolf said", "--model_size=1M", "--n_tokens_to_generate=50",
               "--n_random=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("The wolf said to him: 'I have a good deal") == 1
    rows = {line.rsplit(None, 3)[0]: line.split()[-3:] for line in done.stdout.splitlines()
            if line.count("  ") > 2 and len(line.split()) > 3}
    without, cached, ratio = (float(cell) for cell in rows["all tokens, s"])
    assert ratio == pytest.approx(without / cached, rel=0.01)
    assert "token 1, ms (prefill, 3-token prompt)" in rows and "token 50, ms" in rows
    table = {line[:35].strip(): line[35:].split() for line in done.stdout.splitlines()}
    assert table["tokens compared"] == ["50", "9"]
    assert table["tokens that differ"] == ["0", "0"]
    assert "Yes, the same tokens." in done.stdout and "cores" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 88


def test_compare_uses_one_thread_for_a_small_model_and_says_so():
    environment = dict.fromkeys(measuring.THREAD_NAMES, "")
    done = run("compare.py", "hi", "--model_size=1M", "--n_tokens_to_generate=2", **environment)
    assert "1 thread\nOne thread, as the model" in done.stdout


def test_compare_says_that_a_kernel_is_forced():
    done = run("compare.py", "hi", "--model_size=1M", "--n_tokens_to_generate=2",
               OPENBLAS_CORETYPE="Haswell")
    assert "OPENBLAS_CORETYPE=Haswell is set" in done.stdout


def test_compare_refuses_in_one_line():
    done = run("compare.py", "hi", "--model_size=1M", "--n_tokens_to_generate=999")
    assert (done.stdout, done.stderr.count("\n"), done.returncode) == ("", 1, 1)


def test_compare_says_where_a_broken_cache_differs(model, monkeypatch):
    hparams = {"n_ctx": model.n_ctx, "n_vocab": model.n_vocab, "n_head": model.n_head}
    monkeypatch.setattr(gpt2_kvcache, "mha", keys_forgotten)
    text, agree = compare.compare("The wolf said", model.encoder, hparams, model.params, 10, 0)
    assert not agree
    assert "token 2 differs. gpt2.py chose" in text.replace("\n", " ")
    assert "That is a bug" in text.replace("\n", " ")


def test_help_of_a_drawing_draws_nothing():
    for script, drawing in ("draw_race.py", "race.svg"), ("draw_cache.py", "cache.svg"):
        before = (BENCH / drawing).stat().st_mtime_ns
        assert script.removesuffix(".py")[5:] in run(script, "--help").stdout
        assert (BENCH / drawing).stat().st_mtime_ns == before


@pytest.fixture
def small(monkeypatch):
    """A model and a benchmark that take no time, without other programs."""
    hparams = {"n_vocab": 50, "n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 3}
    monkeypatch.setattr(benchmark, "HPARAMS", hparams)
    monkeypatch.setattr(benchmark, "N_PROMPTS", (5, 20))
    monkeypatch.setattr(benchmark, "DRAWN", (1,))
    monkeypatch.setattr(benchmark, "N_TOKENS", 4)
    monkeypatch.setattr(benchmark, "SETTLE", 0)
    monkeypatch.setattr(benchmark, "NOISY", 1e9)
    for name in measuring.KERNEL_NAMES:
        monkeypatch.delenv(name, raising=False)

    def missing(*_):
        raise ImportError("not here", name="its package")

    monkeypatch.setattr(peers, "llama_cpp", missing)
    monkeypatch.setattr(peers, "transformers", missing)
    return hparams


def benchmark_run(monkeypatch, tmp_path, *args):
    """What is printed, and the files that are kept."""
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *args])
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    benchmark.main()
    return sorted(path.name for path in tmp_path.rglob("*.*"))


def test_benchmark_prints_both_tables_and_keeps_them(small, monkeypatch, tmp_path, capfd):
    checkout = tmp_path / "picoGPT"
    checkout.mkdir()
    (checkout / "gpt2.py").write_text(PICOGPT.format(root=str(BENCH.parents[1])))
    kept = benchmark_run(monkeypatch, tmp_path, "--picogpt", str(checkout))
    printed = capfd.readouterr().out
    assert "benchmark.svg" in kept and len([name for name in kept if name.endswith(".md")]) == 1
    assert printed.count("\npicoGPT ") == 3  # decode, prefill and in all
    assert "llama.cpp is left out: its package isn't installed." in printed
    row = next(line for line in printed.splitlines() if line.startswith("20 ")).split()
    assert float(row[3]) == pytest.approx(float(row[1]) / float(row[2]), rel=0.01)
    (path,) = (tmp_path / "results").iterdir()
    assert printed.strip() in path.read_text("utf-8")
    svg = ElementTree.fromstring((tmp_path / "benchmark.svg").read_text("utf-8"))
    assert any((element.text or "").startswith("gpt2_kvcache.py: ") for element in svg.iter())


def test_benchmark_keeps_nothing_where_a_kernel_is_forced(small, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert benchmark_run(monkeypatch, tmp_path) == []
    assert "OPENBLAS_CORETYPE=Haswell is set" in capfd.readouterr().out


def test_benchmark_stops_where_outputs_differ(small, monkeypatch, tmp_path):
    monkeypatch.setattr(gpt2_kvcache, "mha", keys_forgotten)
    with pytest.raises(benchmark.Differs, match="gpt2_kvcache.py after"):
        benchmark_run(monkeypatch, tmp_path)


def test_limit_is_the_bytes_by_the_bandwidth(model):
    v, e, n_layer = model.n_vocab, model.n_embd, model.n_layer
    numbers = n_layer * (12 * e * e + 13 * e) + 2 * e + v * e + e + 2 * n_layer * e * 100
    assert benchmark.limit(model.params, 100, bandwidth=1e9) == pytest.approx(4 * numbers / 1e9)


def test_figures_that_spread_too_wide_are_not_told():
    assert benchmark.told([0.9, 1, 1.1], 1) == "1.00"
    assert benchmark.told([0.9, 1, 1.2], 1) == "noisy"


def test_random_weights_lie_in_memory_as_those_that_are_loaded():
    params = weights.random_params(n_vocab=5, n_ctx=4, n_embd=8, n_layer=1)
    assert params["blocks"][0]["mlp"]["c_fc"]["w"].flags.f_contiguous
    assert params["wte"].flags.c_contiguous
    assert weights.n_parameters(params) == 5 * 8 + 4 * 8 + 12 * 64 + 13 * 8 + 2 * 8


def test_costs_are_those_of_the_code(monkeypatch):
    assert show_costs.weight_bytes(12, 768) == 4 * 124_439_808
    computed = []
    softmax = gpt2_kvcache.softmax

    def counted(scores):
        computed.append(scores.size)
        return softmax(scores)

    monkeypatch.setattr(gpt2_kvcache, "softmax", counted)
    q, k = np.ones((1, 301, 2), np.float32), np.ones((1, 400, 2), np.float32)
    gpt2_kvcache.attention(q, k, k)
    assert sum(computed) == show_costs.n_scores(301, 400)
