"""README.md says what is so: its diff, its commands, their output, its figures, links and size."""
import functools
import re
import shlex
import subprocess
from itertools import pairwise

import pytest
from terminal import ROOT, finish, screen, watch

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
TOY, FROM_PYTHON = [block for kind, block in BLOCKS if kind == "python"]
COMMANDS = []
SHOWN = {}  # {a block of Python, or the last command of one for the shell: the text that follows}
for (kind, block), (next_kind, text) in pairwise(BLOCKS):
    if kind == "sh":
        COMMANDS += block.replace("\\\n    ", "").splitlines()
    if next_kind == "text":
        SHOWN[COMMANDS[-1] if kind == "sh" else block] = text

# Not run here: making an environment, this very test command, and the 124M model.
NOT_RUN = [
    "python -m venv .venv",
    ". .venv/bin/activate",
    "pip install -r requirements.txt",
    'python gpt2_kvcache.py "Alan Turing theorized that computers would one day become"',
    "pip install -r tests/requirements.txt",
    "python -m pytest tests",
]
RACE = [command for command in COMMANDS if command.startswith("python gpt2") and "400" in command]


@functools.cache
def run(command):
    """What a terminal shows of it."""
    page, status = watch(*shlex.split(command)[1:])
    assert status == 0, page
    return page


def without_figures(text):
    """Times and the machine differ from run to run; the words and the layout do not."""
    figures = re.sub(r"[\d.,e+-]*\d[\d.,e+-]*", "#", text)
    return re.sub(r" +", " ", figures)


def columns(line):
    return re.split("  +", line)


def test_diff_is_shown_whole_and_in_order():
    done = subprocess.run(["diff", "-U0", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    hunks = re.split(r"^@@.*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert "".join(block for kind, block in BLOCKS if kind == "diff") == "".join(hunks)


def test_no_command_is_left_out():
    assert set(COMMANDS) == {*NOT_RUN, *RACE, *SHOWN} - {TOY}


@pytest.mark.parametrize("command", [c for c in SHOWN if c.startswith("python ")])
def test_output_shown_is_printed(command):
    """Whole lines, none of them wrapped, and of bars nothing stays."""
    if command in RACE:  # its last line alone, for which a tenth of the tokens is enough
        tenths = [command.replace("400", "40") for command in RACE]
        page = "\n".join(run(command).splitlines()[-1] for command in tenths) + "\n"
    else:
        page = "\n".join(screen(run(command)))
    measured = command in RACE or "compare.py" in command
    same = without_figures if measured else str
    assert same(SHOWN[command]) in same(page)


def test_comparison_shows_bars_and_finds_the_same_tokens():
    (command,) = [command for command in SHOWN if "compare.py" in command]
    for bar in ("gpt2.py:   0%|", "random prompts:   0%|"):
        assert bar in run(command)
    assert "tokens that differ                         0                  0" in run(command)


def test_toy_prints_rounding_where_attention_is_causal_alone():
    assert len(TOY.splitlines()) <= 25
    stdout, _, _ = finish("-c", TOY)
    assert without_figures(stdout) == without_figures(SHOWN[TOY])
    causal, not_causal = (float(line.split()[-1]) for line in stdout.splitlines())
    assert causal < 1e-14 and not_causal > 0.1


def test_example_can_be_pasted_into_python_and_gives_what_its_comments_say():
    stdout, stderr, _ = finish("-i", "-q", text=FROM_PYTHON)
    assert "Error" not in stderr
    said = re.findall(r"^feed.*: (\(.*\))$", FROM_PYTHON, re.MULTILINE)
    assert len(said) == 5
    assert [line for line in stdout.splitlines() if line.startswith("('")] == said


def test_figures_are_those_of_the_run_that_is_linked():
    (path,) = set(re.findall(r"\((tests/benchmark/results/[^)]*)\)", README))
    steps, totals = (ROOT / path).read_text("utf-8").split("prompt + 40 tokens, s")
    measured = {name: figures for name, *figures in map(columns, steps.splitlines())}
    header, *rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    assert header == ("milliseconds", "decode at 10", "at 960", "prefill of 960")
    assert len(rows) == 8
    for name, *cells in rows:
        figures = measured[name.strip("`").split(" (")[0]]
        assert cells == [figures[0], figures[3], figures[5]], name

    totals = totals.split("\n\n")[0].splitlines()
    totals = {name: figures for name, *figures in map(columns, totals)}
    without, cached = totals["gpt2.py"][3], totals["gpt2_kvcache.py"][3]
    ratio = float(totals["times as fast with a cache"][3])
    assert f"**{ratio:.0f} times faster:**" in README
    assert f"take {without} s without the cache and {cached} s with it" in " ".join(README.split())
    assert f"Memory read at {re.search(r'limit [(](.*)[)]', README)[1]}" in steps


def test_page_is_short_and_narrow():
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    running_text = re.sub(r"^\|.*$|\]\([^)]*\)", "", text, flags=re.MULTILINE)
    words = [word for word in running_text.split() if re.search("[A-Za-z]", word)]
    assert len(words) <= 1350
    for kind, block in BLOCKS:
        assert kind == "diff" or max(map(len, block.splitlines())) <= 79, block
    for line in text.splitlines():
        assert len(line) <= 100 or "](" in line, line


def test_local_links_resolve():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
