"""benchmark.py: its tables from known seconds, its check of what ran, and what it keeps."""
import contextlib
from types import SimpleNamespace

import benchmark
import measuring
import numpy as np
import pytest
import weights
from checkpoints import by_name
from measuring import Run
from terminal import screen, watch

from utils import UserError

FILES = ["gpt2.py", "gpt2_kvcache.py"]
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
REPORT = """
                            decode                     prefill
milliseconds                    10   128   512    960      512    960
gpt2.py                       80.6  82.0  83.3   84.7      409    428
gpt2_kvcache.py               12.7  14.0  15.3   16.7    1,460  1,480
times as fast with a cache    6.35  5.86  5.44   5.07    0.280  0.289
the memory's limit            7.10  7.20  7.30   7.40        -      -
llama.cpp, float32            24.0  25.3  26.7  noisy    1,280  1,300
transformers, fastest loop    35.3  36.7  38.0   39.3      934    954
transformers, generate()      58.0  59.3  60.7   62.0      759    779
picoGPT                       69.3     -     -      -        -      -

prompt + 40 tokens, s          10    128    512    960
gpt2.py                     0.733  0.758  0.784  0.809
gpt2_kvcache.py              1.48   1.50   1.53   1.55
times as fast with a cache  0.495  0.505  0.512  0.522
llama.cpp, float32           1.35   1.38   1.40   1.43
transformers, fastest loop   1.11   1.13   1.16   1.18
transformers, generate()    0.981   1.01   1.03   1.06
picoGPT                     0.857      -      -      -

10 to 960: tokens of the prompt. decode: the median of the steps after the
first. prefill: the first step. Every ratio is that of the figures shown.
noisy: the rounds spread over more than 20% of their median, so that it means
nothing. Try again on a quieter machine.
"""


def made_up_seconds():
    """Three rounds, in which no two programs and no two prompts have a time in common."""
    steps = {"gpt2.py": 7, "gpt2_kvcache.py": 1, "llama.cpp, float32": 2, "loop: sdpa": 3,
             "loop: eager": 4, "transformers, generate()": 5, "picoGPT": 6}
    seconds = {}
    for name, k in steps.items():
        for j, n_prompt in enumerate((10, 128, 512, 960), 1):
            first, later = (9 - k) * 0.17 + j * 0.019, k * 0.011 + j * 0.0013
            rounds = [[r * first, r * later * 0.5, r * later, r * later * 3]
                      for r in (1.1, 1, 1.03)]
            seconds[name, n_prompt] = rounds
    seconds["llama.cpp, float32", 960][1][1:] = [0.01, 0.01, 0.1]
    seconds["loop: eager", 10][0][1:] = [0.001, 0.001, 0.203]  # one round is the fastest of all
    for n_prompt in 128, 512, 960:
        del seconds["picoGPT", n_prompt]
    return seconds


def test_report_from_known_seconds():
    text = benchmark.report(made_up_seconds(), [0.0071, 0.0072, 0.0073, 0.0074])
    assert text == REPORT.strip("\n")


def test_results_and_drawing_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    seconds = {("gpt2.py", 128): [[0.5, 0.02, 0.04, 0.03], [0.25, 0.011, 0.013, 0.019]],
               ("gpt2_kvcache.py", 128): [[0.3, 0.004, 0.009, 0.007]],
               ("gpt2.py", 1): [[0.5, 0.001]]}
    benchmark.keep("A CPU (of 2026)", "the tables", seconds)
    assert (tmp_path / "results/A-CPU-of-2026-.md").read_text("utf-8") == (
        "# A CPU (of 2026)\n\n```text\nthe tables\n\n"
        "milliseconds     prompt  prefill     decode\n"
        "gpt2.py             128  500 250  30.0 13.0\n"
        "gpt2_kvcache.py     128      300       7.00\n"
        "gpt2.py               1      500       1.00\n```\n")
    drawing = (tmp_path / "benchmark.svg").read_text("utf-8")
    assert ">gpt2.py: 22 ms<" in drawing and ">gpt2_kvcache.py: 7 ms<" in drawing


def test_schedule_lets_all_take_turns_and_picogpt_the_first_prompt_alone():
    most, everyone = [*FILES, "another"], [*FILES, "another", "picoGPT"]
    a_round = []
    for names, n_prompt, n_tokens in [
            (FILES, 1, 2), (everyone, 10, 40), (most, 128, 40), (FILES, 256, 2), (FILES, 384, 2),
            (most, 512, 40), (FILES, 640, 2), (FILES, 768, 2), (most, 960, 40)]:
        a_round += [(name, n_prompt, n_tokens) for name in names]
    assert benchmark.schedule(everyone, {"picoGPT"}, rounds=2) == 2 * a_round


def test_bandwidth_is_that_of_the_fastest_product(model, monkeypatch):
    def by_columns_in_a_second(matrix):
        is_fastest = matrix.flags.f_contiguous and len(matrix) == 512
        return 1 if is_fastest and matrix.size > 1e6 else 5

    monkeypatch.setattr(benchmark, "product_seconds", by_columns_in_a_second)
    n_numbers = sum(array.size for array in by_name(model.params).values())
    assert benchmark.best_bandwidth(model.params) == 4 * (n_numbers // 512 * 512)


@pytest.mark.parametrize("ids, change, said", [
    ([3, 5], 0, "a program: ids"), ([3, 4], 0.0021, "a program: the logits"),
    ([3, 4], np.nan, "a program: the logits"), ([3, 4], 0.0019, "")])
def test_runs_that_differ_by_more_than_rounding_are_refused(ids, change, said):
    first = Run([3, 4], [np.float32([1, -20]), np.float32([2, 3])], [])
    logits = [first.logits[0], first.logits[1] + np.float32([0, change])]
    refused = pytest.raises(UserError, match=said) if said else contextlib.nullcontext()
    with refused:
        benchmark.check_same("a program", Run(ids, logits, []), first)


SMALL = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/benchmark")
import benchmark

def missing(*_):
    raise ImportError(name="its package")

bandwidths = [11e5, 12e5]
benchmark.best_bandwidth = lambda params: bandwidths.pop()
benchmark.peers.llama_cpp = benchmark.peers.transformers = missing
benchmark.HPARAMS.update(n_vocab=50, n_embd=4, n_head=1, n_layer=1, n_inner=16)
benchmark.N_TOKENS, benchmark.NOISY, benchmark.SETTLE = 3, 1e9, 0
benchmark.HERE = Path(sys.argv.pop(1))
benchmark.main()
"""


def small_benchmark(folder, monkeypatch, *options, kernel=""):
    """What it prints on a terminal, of a tiny model and without packages, and what it keeps."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", kernel)
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "")
    kept = folder / "kept"
    kept.mkdir()
    page, status = watch("-c", SMALL, kept, *options)
    assert status == 0 and "measuring:   0%|" in page
    return "\n".join(screen(page)), kept


def test_benchmark_prints_its_tables_and_keeps_them(monkeypatch, tmp_path):
    checkout = tmp_path / "picoGPT"
    checkout.mkdir()
    (checkout / "gpt2.py").write_text(PICOGPT.format(root=str(benchmark.ROOT)))
    printed, kept = small_benchmark(tmp_path, monkeypatch, "--picogpt", checkout)

    (path,) = (kept / "results").iterdir()
    text, said = printed.split("\n\nKept as ")
    assert text in path.read_text("utf-8") and path.name in said
    assert (kept / "benchmark.svg").exists()
    assert printed.count("\npicoGPT ") == 2
    assert "llama.cpp is left out: its package isn't installed." in printed
    # 1,824 bytes of weights, and 32 of the cache for each token, by 1.2 MB/s
    assert "the memory's limit 1.81 4.96 15.2 27.1 - -" in " ".join(printed.split())


@pytest.mark.parametrize("kernel, rounds, said", [
    ("Haswell", 3, "OPENBLAS_CORETYPE=Haswell is set"), ("", 2, "Rounds: 2")])
def test_nothing_is_kept_of_a_forced_kernel_or_of_two_rounds(kernel, rounds, said, monkeypatch,
                                                             tmp_path):
    printed, kept = small_benchmark(tmp_path, monkeypatch, f"--rounds={rounds}", kernel=kernel)
    assert said in printed and list(kept.iterdir()) == []


def test_benchmark_stops_where_outputs_differ():
    runs = {"gpt2.py": [3, 4], "gpt2_kvcache.py": [3, 5]}
    contestants = {name: lambda *_, n_tokens, ids=ids: Run(ids, None, [])
                   for name, ids in runs.items()}
    with pytest.raises(UserError, match="gpt2_kvcache.py after 7 tokens"):
        benchmark.measure(contestants, [1] * 9, [(name, 7, 2) for name in runs])


def test_random_weights_lie_in_memory_as_those_that_are_loaded(model):
    params = weights.random_params(n_vocab=5, n_ctx=4, n_embd=8, n_layer=1, n_inner=32)
    named = by_name(params)
    for name, array in by_name(model.params).items():
        if name in named:
            assert named[name].flags.f_contiguous == array.flags.f_contiguous
    assert named["ln_f.weight"].mean() == pytest.approx(1, abs=0.1)
    assert sum(array.size for array in named.values()) == 5 * 8 + 4 * 8 + 12 * 64 + 13 * 8 + 2 * 8


def test_clock_counts_each_id_and_keeps_its_logits(model):
    args = model.encoder.encode("The wolf"), model.params, model.n_head, 4
    for module in measuring.FILES.values():
        run = measuring.timed_generate(module, *args)
        assert run.ids == list(module.generate(*args))
        assert [int(logits.argmax()) for logits in run.logits] == run.ids
        assert len(run.seconds) == 4 and min(run.seconds) > 0


def test_clock_counts_the_time_that_passes(monkeypatch):
    seconds = iter([1, 3, 7])
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=seconds.__next__))
    assert measuring.clocked("ab") == (["a", "b"], [2, 4])


def test_spread_leaves_out_a_tenth_on_either_side():
    assert measuring.spread([900, *range(10, 30), 0]) == pytest.approx(16.8 / 19.5)


def test_ratio_is_that_of_the_figures_shown():
    assert measuring.ratio("1,230", "12.3") == "100"
