"""compare.py's page from known runs, its verdict; and the other scripts."""
import os
import re
import runpy
import signal
from types import SimpleNamespace

import compare
import draw_race
import machine
import numpy as np
import pytest
import show_costs
from compare import Token
from measuring import Run
from terminal import ROOT, finish, screen, shown, start_on_terminal, watch

import gpt2_kvcache

LESSON = ROOT / "tests/lesson"
PAGE = """
The wolf saidABCC

prompt of 3    gpt2.py  gpt2_kvcache.py  times as fast
token 1, ms       12.3             11.7           1.05  about 1: the same work
token 2, ms       21.1             5.20           4.06
token 4, ms       46.2             7.30           6.33
all tokens, s    0.113           0.0303           3.73
tokens/s          35.3              132           3.74

Is it the same?
                                   this text  2 random prompts
tokens compared                            4                 2
tokens that differ                         0                 1
largest difference of a logit        2.0e-04           5.0e-01
smallest gap of the two likeliest    2.5e-01           2.5e+00

NO. For token 1 of random prompt 1 (433 tokens) gpt2.py chose 1 '"',
gpt2_kvcache.py 1 '"'. Their logits are up to 5.0e-01 apart. That is a bug:
rounding stays below 5.0e-04.
"""


def run(ids, seconds=(), plus=0.0):
    """Up to four tokens of a vocabulary of three, and plus is added to one logit of the first."""
    logits = np.float32([[1, 5, 2.5 + plus], [4, 1, 3.75], [0, -8, 2], [1, 0, 0]])
    return Run(ids, logits[: len(ids)], seconds)


def test_page_from_known_runs(monkeypatch, capsys):
    runs = {"gpt2.py": [run([32, 33, 34, 34], [0.02, 0.0211, 0.0337, 0.0462]), run([1]),
                        run([1, 0])],
            "gpt2_kvcache.py": [run([32, 33, 34, 34], [0.01, 0.0052, 0.0061, 0.0073], plus=2e-4),
                                run([1], plus=0.5), run([2, 0])]}
    first = {"gpt2.py": [0.01, 0.05, 0.0123], "gpt2_kvcache.py": [0.07, 0.0117, 0.003]}

    def known_run(module, *_):
        return runs[f"{module.__name__}.py"].pop(0)

    monkeypatch.setattr(compare, "time_first_steps", lambda *_: first)
    monkeypatch.setattr(compare, "timed_generate", known_run)
    with pytest.raises(SystemExit) as ending:
        compare.main("The wolf said", n_tokens_to_generate=4, model_size="1M", n_random=2)
    page, conditions = capsys.readouterr().out.rsplit("\n\n", 1)
    assert (page, ending.value.code) == (PAGE.strip(), 1)
    assert "NumPy" in conditions


def test_page_of_a_single_token():
    table = compare.speed_table(3, dict.fromkeys(compare.FILES, [0.5]))
    assert re.findall("^[a-z]+", table, re.MULTILINE) == ["prompt", "token", "all", "tokens"]


def test_first_steps_take_turns_and_the_first_of_each_warms_up(monkeypatch):
    seconds = iter([9, 8, 3, 4])
    monkeypatch.setattr(compare, "SECONDS", 0)
    monkeypatch.setattr(compare, "timed_generate", lambda *_: Run([1], [], [next(seconds)]))
    assert compare.time_first_steps([], {}, 4) == {"gpt2.py": [3], "gpt2_kvcache.py": [4]}


@pytest.mark.parametrize("changes, said", [
    ({}, "Yes.*Here no gap is"),
    ({"gap": 2.1e-5}, "Yes.*Here no gap is"),
    ({"gap": 1.9e-5}, "Yes.*Here one gap is"),
    ({"difference": 1.1e-3}, "NO.*the second.*1.1e-03 apart.*bug.*below 1.0e-03"),
    ({"difference": np.nan}, "NO.*bug"),
    ({"cached": 5}, "NO.*gpt2.py chose 1 'x', gpt2_kvcache.py 5 'x'.*can be rounding"),
    ({"cached": 5, "difference": 2}, "NO.*bug")])
def test_verdict_from_known_tokens(changes, said):
    good = Token("the first", chosen=1, cached=1, difference=1e-5, gap=1.0, rounding=1e-3)
    other = good._replace(where="the second", **changes)
    encoder = SimpleNamespace(decode=lambda ids: "x")
    assert re.match(said, compare.verdict([good, other, good], encoder))


def test_broken_cache_is_found_where_only_random_prompts_show_it(monkeypatch, capsys):
    mha = gpt2_kvcache.mha

    def values_fade(x, c_attn, c_proj, n_head, layer_kv, n_past):
        if n_past >= 99:
            layer_kv[1, :, :n_past] *= 0.99  # so little that no token changes
        return mha(x, c_attn, c_proj, n_head, layer_kv, n_past)

    monkeypatch.setattr(compare, "SECONDS", 0)
    monkeypatch.setattr(gpt2_kvcache, "mha", values_fade)
    with pytest.raises(SystemExit, match="True"):  # so the status is 1
        compare.main("The wolf said", n_tokens_to_generate=4, model_size="1M", n_random=2)
    page, bars = capsys.readouterr()
    words = " ".join(page.split())
    assert "tokens that differ 0 0" in words and bars == ""
    assert "NO. For token 2 of random prompt 1 (433 tokens)" in words


def test_race_is_the_median_of_the_runs_after_the_first(monkeypatch, tmp_path):
    first = iter([99, 99, 1, 0.5, 2, 0.9, 6, 0])  # the two files in turn
    monkeypatch.setattr(draw_race, "timed_generate", lambda *_: run([32, 33], [next(first), 1]))
    monkeypatch.setattr(draw_race, "RUNS", 3)
    monkeypatch.setattr(draw_race, "HERE", tmp_path)
    draw_race.main()
    assert "3.00 s without, 1.50 s with" in (tmp_path / "race.svg").read_text("utf-8")


@pytest.mark.parametrize("load, later, is_busy", [
    (0.9, 1.9, False), (1.1, 1.9, True), (0.9, 2.1, True)])
def test_busy_machine_is_told(load, later, is_busy, monkeypatch):
    monkeypatch.setattr(compare, "n_cores", lambda: 2)
    first = {"gpt2.py": [1, 1, 1], "gpt2_kvcache.py": [1, 1, 1, later, later]}
    assert ("is busy" in compare.busy(load, first)) == is_busy


def test_forced_kernel_and_threads_are_told(monkeypatch):
    for name in machine.KERNEL_NAMES + machine.THREAD_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(99), raising=False)
    assert (machine.forced_kernel(), machine.forced_threads()) == ("", "")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # OpenBLAS heeds the other
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "OPENBLAS_CORETYPE=Haswell is set" in machine.forced_kernel()
    assert re.match("OPENBLAS_NUM_THREADS=1 .*use 99 threads", machine.forced_threads())
    assert machine.n_threads() == 1


def test_compare_leaves_the_number_of_threads_that_is_set(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    runpy.run_path(str(LESSON / "compare.py"))
    assert os.environ["OPENBLAS_NUM_THREADS"] == "5"


def test_costs_are_those_of_the_code(monkeypatch):
    assert show_costs.weight_bytes(12, 768) == 4 * 124_439_808
    assert show_costs.cache_bytes(1024, 12, 768) == 75_497_472
    assert show_costs.multiply_adds(1, 1023, 12, 768) == 142_406_400
    n_computed = []
    softmax = gpt2_kvcache.softmax

    def counted(scores):
        n_computed.append(scores.size)
        return softmax(scores)

    monkeypatch.setattr(gpt2_kvcache, "softmax", counted)
    q, k = np.ones((1, 301, 2), np.float32), np.ones((1, 400, 2), np.float32)
    gpt2_kvcache.attention_in_halves(q, k, k)
    assert sum(n_computed) == show_costs.n_scores(301, 400)


def test_ctrl_c_ends_quietly():
    args = [LESSON / "compare.py", "The wolf said", "--model_size=1M", "--n_random=9999"]
    with start_on_terminal(*args) as (process, ours):
        shown(ours, until=rb"random prompts: +\d")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in shown(ours)
        assert process.wait() == 130


PROGRAMS = [*LESSON.glob("*.py"), ROOT / "tests/benchmark/benchmark.py"]


@pytest.mark.parametrize("script", PROGRAMS, ids=lambda path: path.name)
def test_help_fits_the_terminal_and_says_what_is_overwritten(script):
    page, status = watch(script.relative_to(ROOT), "--help")
    assert status == 0 and script.name in " ".join(screen(page))
    if script.name.startswith(("draw", "bench")):
        assert re.search(r"overwrites \w+\.svg|\.svg is overwritten", page)


@pytest.mark.parametrize("script, option", [
    ("lesson/show_costs.py", "--verbose"), ("benchmark/benchmark.py", "--verbose"),
    ("benchmark/benchmark.py", "--rounds=0")])
def test_wrong_option_is_refused(script, option):
    stdout, stderr, status = finish(ROOT / "tests" / script, option)
    assert (stdout, status) == ("", 2) and option[:8] in stderr.splitlines()[-1]
