"""The benchmark's instrument: its arithmetic, and that it refuses to time outputs that differ."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import benchmark
import numpy as np
import pytest

import gpt2
import gpt2_kvcache

N_TOKENS = 5


def hparams(model):
    return {name: getattr(model, name) for name in ("n_vocab", "n_ctx", "n_embd", "n_head",
                                                    "n_layer")}


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch):
    monkeypatch.setattr(benchmark, "load_transformers", lambda *_: None)


def measure(model, **options):
    options = {"n_prompts": (3, 40), "contexts": (0, 5), "rounds": 1} | options
    return benchmark.measure(model.params, hparams(model), n_tokens=N_TOKENS, **options)


def test_prompts_are_capped_to_what_fits_and_each_round_measures_all(model):
    found = measure(model, n_prompts=(3, 960), rounds=2)
    assert [row["n_prompt"] for row in found["rows"]] == [3, model.n_ctx - N_TOKENS]
    for row in found["rows"]:
        assert len(row["cached"]) == len(row["uncached"]) == 2
    for step in found["steps"]:
        assert len(step["cached"]) == len(step["uncached"]) == len(found["contexts"])
    assert len(found["steps"]) == 2 and min(found["bandwidth"].values()) > 0


def test_where_uncached_tokens_are_fast_all_are_run_and_compared(model):
    for row in measure(model, slow=1e9)["rows"]:
        assert row["uncached"][0]["n_compared"] == N_TOKENS
        assert not row["uncached"][0]["extrapolated"] and not row["cached"][0]["extrapolated"]


def test_where_they_are_slow_three_are_run_and_the_total_is_labelled(model):
    found = measure(model, slow=0)
    for row in found["rows"]:
        run = row["uncached"][0]
        assert run["n_compared"] == 3 and run["extrapolated"]
        assert run["total"] == pytest.approx(run["first"] + (N_TOKENS - 1) * run["later"])
        assert not row["cached"][0]["extrapolated"]
    lines = benchmark.before_and_after(found["rows"], N_TOKENS).splitlines()
    assert all("| ~" in line for line in lines if "`gpt2.py`" in line)
    assert all("| ~" in line and "3 of 3" in line for line in lines if "kvcache" in line)


def test_timed_generate_times_each_token_and_the_whole_prompt_with_the_first(model, monkeypatch):
    monkeypatch.setattr(gpt2_kvcache, "CHUNK", 4)
    clock = iter(range(100))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    ids = [1] * 10
    new, seconds = benchmark.timed_generate(gpt2_kvcache, ids, model.params, model.n_head, 3)
    monkeypatch.undo()
    assert seconds == [3, 1, 1]  # chunks of 4, 4 and 2; then two single tokens
    assert new == gpt2.generate(ids, model.params, model.n_head, 3)


def test_summary_of_all_tokens_and_of_a_sample():
    assert benchmark.summary([8, 1, 2, 6], 4) == {"first": 8, "later": 2, "total": 17,
                                                  "extrapolated": False}
    assert benchmark.summary([8, 1, 3], 40) == {"first": 8, "later": 2, "total": 8 + 39 * 2,
                                                "extrapolated": True}


def test_bytes_that_a_step_reads_are_those_of_the_formula(model):
    v, e, n_layer = model.n_vocab, model.n_embd, model.n_layer
    assert benchmark.bytes_read(model.params, 100) == {
        "weights": 4 * (n_layer * (12 * e * e + 13 * e) + 2 * e + v * e + e),
        "cache": 2 * n_layer * e * 4 * 100}


def test_bandwidth_is_measured_on_matrices_larger_than_the_last_level_cache(model):
    matrices = benchmark.matrices(model.params)
    assert len(matrices) == 4
    assert all(m.nbytes > benchmark.last_level_cache() for m in matrices.values())
    assert all(m.dtype == np.float32 for m in matrices.values())


def made_up(**transformers):
    """What measure returns, with round figures."""
    def run(first, later, **more):
        return {"first": first, "later": later, "total": first + later, **more}

    return {"n_tokens": 40, "contexts": [0, 10], "bandwidth": {"a": 1e9, "b": 4e9},
            "steps": [{"uncached": [0.01, 0.5], "cached": [0.01, 0.02]}],
            "rows": [{"n_prompt": 10, "sample": False, "variants": None, "transformers": [],
                      "cached": [run(1, 0.01), run(2, 0.02), run(4, 0.03)],
                      "uncached": [run(2, 6, n_compared=40)] * 3, **transformers}]}


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("|")][2:]


def test_speed_up_is_the_ratio_of_the_median_totals():
    without, cached = cells(benchmark.before_and_after(made_up()["rows"], 40))
    assert without[2:5] == ["2,000 (2,000 to 2,000)", "6,000 (6,000 to 6,000)",
                            "8.00 (8.00 to 8.00)"]
    assert cached[2:] == ["2,000 (1,000 to 4,000)", "20.0 (10.0 to 30.0)", "2.02 (1.01 to 4.03)",
                          f"{8 / 2.02:.1f} x", "40 of 40"]


def test_limit_is_the_bytes_by_the_best_bandwidth(model):
    text, share = benchmark.against_the_limit(made_up(), model.params)
    size = benchmark.bytes_read(model.params, 10 + 20)
    limit = (size["weights"] + size["cache"]) / 4e9
    assert share == pytest.approx(limit / 0.02)
    assert cells(text)[0] == ["30", f"{size['weights'] / 1e6:.1f}", f"{size['cache'] / 1e6:.1f}",
                              f"{limit * 1e3:.2f}", "20.00", f"{limit / 0.02:.2f}"]


def test_ratios_to_transformers_are_theirs_by_ours():
    variant = ("sdpa", "DynamicCache", None)
    rows = made_up(transformers=[{"first": 3, "later": 0.05}] * 3,
                   variants={"first": variant, "later": variant})["rows"]
    prefill, decode = cells(benchmark.against_transformers(rows))
    assert (prefill[1], prefill[4], prefill[5]) == ("prefill", "1.50", "sdpa, DynamicCache")
    assert (decode[1], decode[4]) == ("decode", "2.50")


def keys_forgotten(monkeypatch):
    forward = gpt2_kvcache.gpt2

    def broken(inputs, params, n_head, cache):
        cache["k"][:, :, : cache["n_past"]] = 0
        return forward(inputs, params, n_head, cache)

    monkeypatch.setattr(gpt2_kvcache, "gpt2", broken)


def prompt_sees_what_follows(monkeypatch):
    monkeypatch.setattr(gpt2_kvcache, "causal_mask",
                        lambda n_q, n_k: np.zeros((n_q, n_k), np.float32))


@pytest.mark.parametrize("break_cache", [keys_forgotten, prompt_sees_what_follows])
@pytest.mark.parametrize("slow", [0, 1e9])
def test_measuring_fails_when_a_broken_cache_gives_other_ids(model, monkeypatch, break_cache, slow):
    break_cache(monkeypatch)
    with pytest.raises(benchmark.Differs, match="without a cache"):
        measure(model, slow=slow)


def test_measuring_single_steps_fails_when_the_cache_is_broken(model):
    ids = list(range(20))
    cache = gpt2_kvcache.kv_cache(model.params, model.n_head, 20)
    gpt2_kvcache.gpt2(ids, model.params, model.n_head, cache)
    benchmark.measure_steps(ids, model.params, model.n_head, cache, (19,))
    cache["k"][:, :, :19] = 0
    with pytest.raises(benchmark.Differs):
        benchmark.measure_steps(ids, model.params, model.n_head, cache, (19,))


def test_a_childs_peak_is_its_own_and_not_its_parents():
    code = ("import subprocess, sys; held = bytearray(b'x' * 400_000_000); child = 'import "
            "benchmark; print(benchmark.peak_rss())'; print(subprocess.run([sys.executable, '-c', "
            "child], stdout=subprocess.PIPE, text=True).stdout)")
    assert 10e6 < float(benchmark.python("-c", code)[0]) < 200e6


def test_memory_of_the_cache_is_that_of_the_formula(model):
    used = benchmark.measure_memory(model.params, hparams(model), "1M", benchmark.ROOT / "models",
                                    [10])
    assert used["measured"] == used["formula"] == 2 * model.n_layer * model.n_embd * 4
    assert [row["cache"] for row in used["rows"]] == [0, 11 * used["formula"]]
    assert all(row["peak"] >= row["loaded"] > used["weights"] for row in used["rows"])


def test_a_random_model_stands_in_for_a_published_one_that_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.SIZES, "124M", (1, 64))  # the real shape takes seconds
    with benchmark.models_or_random("124M", str(tmp_path)) as folder:
        assert folder != str(tmp_path)
        _, shape, params = benchmark.load_encoder_hparams_and_params("124M", folder)
    assert (shape["n_layer"], shape["n_embd"], shape["n_head"]) == (1, 64, 1)
    assert np.std(params["wte"]) == pytest.approx(0.02, rel=0.01)
    assert (params["ln_f"]["g"] == 1).all() and not Path(folder).exists()


def test_a_model_that_is_there_is_used(tmp_path):
    for model_size, name in ("124M", "model.safetensors"), ("mine", "pytorch_model.bin"):
        (tmp_path / model_size).mkdir()
        (tmp_path / model_size / name).touch()
        with benchmark.models_or_random(model_size, str(tmp_path)) as folder:
            assert folder == str(tmp_path)


def test_drawing_has_both_files_and_is_the_same_each_time(tmp_path):
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(ImportError):
            benchmark.draw(made_up(), tmp_path / "a.svg")
        return
    for name in ("a.svg", "b.svg"):
        benchmark.draw(made_up(), tmp_path / name)
    svg = (tmp_path / "a.svg").read_text()
    assert ">gpt2.py<" in svg and ">gpt2_kvcache.py<" in svg
    assert svg == (tmp_path / "b.svg").read_text()


def test_command_prints_markdown_and_nothing_else_on_standard_output(tmp_path):
    script, svg = benchmark.ROOT / "tests" / "benchmark.py", tmp_path / "drawn.svg"
    done = subprocess.run([sys.executable, script, "--model_size=1M", "--rounds=1", "--svg", svg],
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    captions = [line for line in done.stdout.splitlines() if line.startswith("**")]
    assert [caption.split(".**")[0].strip("*") for caption in captions
            if "transformers" not in caption] == ["Before and after", "Against the limit", "Memory",
                                                  "Start-up", "In short"]
    assert all(line.startswith(("|", "**", "The weights in models/1M", "Not compared")) or not line
               for line in done.stdout.splitlines())
    assert svg.exists() == bool(importlib.util.find_spec("matplotlib"))
    assert "100%" in done.stderr
