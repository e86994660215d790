"""compare.py's tables and verdict, from known runs; the other scripts; all on a terminal."""
import os
import re
import signal

import compare
import machine
import numpy as np
import pytest
import show_costs
from compare import Token
from measuring import Run
from terminal import ROOT, finish, open_terminal, shown, start

import gpt2_kvcache
from utils import UserError

LESSON = ROOT / "tests/lesson"
BENCHMARK = ROOT / "tests/benchmark/benchmark.py"
SMALL = f"""
import sys
sys.path.insert(0, {str(BENCHMARK.parent)!r})
import benchmark
benchmark.HPARAMS.update(n_vocab=5000, n_embd=64, n_head=1, n_layer=1, n_inner=256)
benchmark.N_TOKENS = 3
benchmark.peers.load = lambda *_: ({{}}, set(), ["All other programs are left out."])
benchmark.main()
"""
COMPARE = [str(LESSON / "compare.py"), "The wolf said", "--model_size=1M"]
SPEED = """
prompt of 5    gpt2.py  gpt2_kvcache.py  times as fast
token 1, ms       12.3             11.7           1.05  about 1: the same work
token 2, ms       21.1             5.20           4.06
token 4, ms       46.2             7.30           6.33
all tokens, s    0.121           0.0286           4.23
tokens/s          33.1              140           4.23
"""
AGREEMENT = """
                                   this text  2 random prompts
tokens compared                            2                 3
tokens that differ                         1                 2
largest difference of a logit        2.0e-04           8.0e-03
smallest gap of the two likeliest    3.0e-05           9.0e-01
"""


def test_speed_from_known_seconds():
    first = {"gpt2.py": 0.0123, "gpt2_kvcache.py": 0.0117}
    seconds = {"gpt2.py": [0.02, 0.0211, 0.0337, 0.0462],
               "gpt2_kvcache.py": [0.01, 0.0052, 0.0061, 0.0073]}
    assert compare.speed_table(5, first, seconds) == SPEED.strip()
    one = compare.speed_table(5, first, {file: several[:1] for file, several in seconds.items()})
    assert [line.split(",")[0] for line in one.splitlines()[1:3]] == ["token 1", "all tokens"]


def test_first_steps_take_turns_and_the_first_of_each_warms_up(monkeypatch):
    seconds = iter([9, 8, 3, 4])
    monkeypatch.setattr(compare, "SECONDS", 0)
    monkeypatch.setattr(compare, "timed_generate", lambda *_: Run([1], [], [next(seconds)]))
    assert compare.time_first_steps([], {}, 4) == {"gpt2.py": [3], "gpt2_kvcache.py": [4]}


def token(chosen=1, cached=1, difference=1e-5, gap=1.0, rounding=1e-3):
    return Token("token 2 of this text", chosen, cached, difference, gap, rounding)


def test_agreement_from_known_tokens():
    columns = {"this text": [token(difference=2e-4, gap=3e-5), token(cached=2, difference=1e-4)],
               "2 random prompts": [token(chosen=3, difference=7e-3, gap=2), token(gap=3, cached=9),
                                    token(difference=8e-3, gap=0.9)]}
    assert "\n" + compare.agreement_table(columns) + "\n" == AGREEMENT


def test_tokens_are_compared_up_to_the_first_that_differs():
    logits = [np.float32(row) for row in ([1, 5, 2.5], [4, 1, 3.75], [0, -8, 2], [1, 0, 0])]
    cached = [row.copy() for row in logits]
    cached[0][2] += 0.25
    cached[2][1] -= 0.5
    runs = {"gpt2.py": Run([1, 0, 2, 0], logits, []),
            "gpt2_kvcache.py": Run([1, 0, 1, 1], cached, [])}
    found = compare.compared("x", runs)
    assert [one[:5] for one in found] == [("token 1 of x", 1, 1, 0.25, 2.5),
                                          ("token 2 of x", 0, 0, 0, 0.25),
                                          ("token 3 of x", 2, 1, 0.5, 2)]
    assert [one.rounding for one in found] == pytest.approx([5e-4, 4e-4, 8e-4])


@pytest.mark.parametrize("changes, said", [
    ({}, "Yes.*Here no gap is"),
    ({"gap": 2.1e-5}, "Yes.*Here no gap is"),
    ({"gap": 1.9e-5}, "Yes.*Here one gap is"),
    ({"difference": 1.1e-3}, "NO.*token 2 of this text.*1.1e-03 apart.*bug.*below 1.0e-03"),
    ({"difference": np.nan}, "NO.*bug"),
    ({"cached": 5}, "NO.*gpt2.py chose 1 .A., gpt2_kvcache.py 5 .E.*can be rounding"),
    ({"cached": 5, "difference": 2}, "NO.*bug")])
def test_verdict_from_known_tokens(changes, said):
    class Letters:
        def decode(self, ids):
            return "".join(chr(64 + i) for i in ids)

    assert re.match(said, compare.verdict([token(), token(**changes), token()], Letters()))


@pytest.mark.parametrize("n_past_of_bug, said", [
    (3, "NO. For token 2 of this text"), (99, "NO. For token 2 of random prompt 1 (433 tokens)")])
def test_broken_cache_is_found_in_text_and_in_random_prompts(n_past_of_bug, said, monkeypatch,
                                                             capsys):
    mha = gpt2_kvcache.mha

    def keys_forgotten(x, c_attn, c_proj, n_head, layer_kv, n_past):
        if n_past >= n_past_of_bug:
            layer_kv[0, :, :n_past] = 0
        return mha(x, c_attn, c_proj, n_head, layer_kv, n_past)

    first = {"gpt2.py": [0.01, 0.05, 0.02], "gpt2_kvcache.py": [0.07, 0.04, 0.03]}
    monkeypatch.setattr(compare, "time_first_steps", lambda *_: first)
    monkeypatch.setattr(gpt2_kvcache, "mha", keys_forgotten)
    with pytest.raises(SystemExit) as ending:
        compare.main("The wolf said", n_tokens_to_generate=4, model_size="1M", n_random=2)
    assert ending.value.code == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert "token 1, ms 20.0 40.0 0.500" in printed


@pytest.mark.parametrize("load, later, is_busy", [
    (0.9, 1.9, False), (1.1, 1.9, True), (0.9, 2.1, True)])
def test_busy_machine_is_told(load, later, is_busy, monkeypatch):
    monkeypatch.setattr(compare, "n_cores", lambda: 2)
    first = {"gpt2.py": [1, 1, 1], "gpt2_kvcache.py": [1, 1, 1, later, later]}
    assert ("is busy" in compare.busy(load, first)) == is_busy


def test_forced_kernel_and_threads_are_told(monkeypatch):
    for name in machine.KERNEL_NAMES + machine.THREAD_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "n_cores", lambda: 3)
    assert (machine.forced_kernel(), machine.forced_threads()) == ("", "")
    assert machine.use_one_thread() and machine.n_threads() == 1
    assert not machine.use_one_thread()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert machine.forced_kernel().startswith("OPENBLAS_CORETYPE=Haswell is set")
    assert "OPENBLAS_NUM_THREADS=1" in machine.forced_threads()


def test_costs_are_those_of_the_code(monkeypatch):
    assert show_costs.weight_bytes(12, 768) == 4 * 124_439_808
    assert show_costs.cache_bytes(1024, 12, 768) == 75_497_472
    assert show_costs.multiply_adds(1, 1023, 12, 768) == 142_406_400
    computed = []
    softmax = gpt2_kvcache.softmax

    def counted(scores):
        computed.append(scores.size)
        return softmax(scores)

    monkeypatch.setattr(gpt2_kvcache, "softmax", counted)
    q, k = np.ones((1, 301, 2), np.float32), np.ones((1, 400, 2), np.float32)
    gpt2_kvcache.attention_in_halves(q, k, k)
    assert sum(computed) == show_costs.n_scores(301, 400)


def screen(text):
    """The lines that a terminal of 80 columns shows in the end, and that none was wrapped."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in line.split("\r"):
            assert len(part) <= 80, part
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


@pytest.mark.parametrize("args, bars", [
    ([*COMPARE, "--n_tokens_to_generate=90", "--n_random=9"], ["gpt2.py", "random prompts"]),
    (["-c", SMALL, "--rounds=1"], ["measuring"]), ([LESSON / "show_bugs.py"], []),
    ([LESSON / "show_shapes.py"], []), ([LESSON / "show_costs.py"], [])])
def test_terminal_shows_narrow_lines_and_in_the_end_no_bar(args, bars):
    ours, its = open_terminal()
    environment = {key: value for key, value in os.environ.items()
                   if key not in machine.THREAD_NAMES}
    with start(*args, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        text = shown(ours)
        lines = screen(text)
        assert process.wait() == 0, text
    assert max(map(len, lines)) <= 79
    assert "%|" not in "\n".join(lines)
    assert ("%|" in text) == bool(bars)
    for bar in bars:
        assert bar in text.replace("\n", "")


def test_ctrl_c_ends_quietly():
    ours, its = open_terminal()
    with start(*COMPARE, "--n_random=9999", stdout=its, stderr=its) as process:
        os.close(its)
        shown(ours, until=rb"random prompts: +\d")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in shown(ours)
        assert process.wait() == 130


@pytest.mark.parametrize("script, drawing", [
    (LESSON / "draw_race.py", LESSON / "race.svg"),
    (LESSON / "draw_cache.py", LESSON / "cache.svg"),
    (BENCHMARK, BENCHMARK.with_suffix(".svg"))])
def test_help_says_what_is_overwritten_and_overwrites_nothing(script, drawing):
    before = drawing.stat().st_mtime_ns
    stdout, _, status = finish(script, "--help")
    assert f"{drawing.name} is overwritten" in stdout or f"overwrites {drawing.name}" in stdout
    assert (status, drawing.stat().st_mtime_ns) == (0, before)


def test_unknown_option_is_refused():
    stdout, stderr, status = finish(LESSON / "show_costs.py", "--verbose")
    assert (stdout, status) == ("", 2) and "--verbose" in stderr


def test_random_prompts_may_be_none_but_not_fewer():
    assert compare.parse(compare.main, ["hi", "--n_random=0"])["n_random"] == 0
    with pytest.raises(UserError, match="n_random .* from 0 up"):
        compare.parse(compare.main, ["hi", "--n_random=-1"])
