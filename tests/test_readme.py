"""README.md says what is so: its diff, its commands, their output, its figures, links and size."""
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import open_terminal, shown, start

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
TOY, FROM_PYTHON = [block for kind, block in BLOCKS if kind == "python"]
COMMANDS = []
SHOWN = {}  # {a block of code, or its last command: the text block that follows}
for (kind, block), (next_kind, next_block) in zip(BLOCKS, [*BLOCKS[1:], ("", "")]):
    if kind == "sh":
        COMMANDS += block.replace("\\\n    ", "").splitlines()
    if next_kind == "text":
        SHOWN[block if kind == "python" else COMMANDS[-1]] = next_block

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
    program, *args = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_figures(text):
    """Timings and the machine differ from run to run; the words and the layout do not."""
    figures = re.sub(r"[\d.,e+-]*\d[\d.,e+-]*", "#", text)
    return re.sub(r" +", " ", figures)


def columns(line):
    return re.split("  +", line)


def test_diff_is_shown_whole_and_in_order():
    done = subprocess.run(["diff", "-U0", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    hunks = re.split(r"^@@.*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert "".join(block for kind, block in BLOCKS if kind == "diff") == "".join(hunks)


@pytest.mark.parametrize("command", [
    command for command in SHOWN
    if command in COMMANDS and command not in RACE and "compare.py" not in command])
def test_output_shown_is_printed(command):
    assert run(command) == SHOWN[command]


@pytest.mark.parametrize("command", [c for c in SHOWN if "compare.py" in c])
def test_comparison_shown_is_printed_but_for_its_figures(command):
    shown_here = without_figures(SHOWN[command])
    assert shown_here in without_figures(run(command))


def test_verdict_of_100_random_prompts_is_that_the_tokens_are_the_same():
    (command,) = [command for command in SHOWN if "--n_random" in command]
    assert "tokens that differ                         0                   0" in run(command)


def test_speeds_shown_are_the_lines_of_both_files_on_a_terminal():
    lines = []
    for command in RACE:
        ours, its = open_terminal()
        with start(*shlex.split(command)[1:], stdout=its, stderr=its):
            os.close(its)
            lines.append(shown(ours).splitlines()[-1])
    assert ["gpt2.py" in RACE[0], "gpt2_kvcache.py" in RACE[1]] == [True, True]
    assert without_figures("\n".join(lines)) == without_figures(SHOWN[RACE[-1]].rstrip())


def test_no_command_is_left_out():
    assert set(COMMANDS) == {*NOT_RUN, *RACE, *SHOWN} - {TOY}


def test_both_files_print_what_the_quick_start_shows():
    command = next(command for command in SHOWN if "gpt2_kvcache.py" in command)
    assert run(command.replace("gpt2_kvcache.py", "gpt2.py")) == SHOWN[command]


def test_toy_prints_rounding_where_attention_is_causal_alone():
    assert len(TOY.splitlines()) <= 25
    done = subprocess.run([sys.executable, "-c", TOY], capture_output=True, encoding="utf-8")
    assert without_figures(done.stdout) == without_figures(SHOWN[TOY])
    causal, not_causal = (float(line.split()[-1]) for line in done.stdout.splitlines())
    assert causal < 1e-14 and not_causal > 0.1


def test_example_can_be_pasted_into_python_and_gives_what_its_comments_say():
    done = subprocess.run([sys.executable, "-i", "-q"], input=FROM_PYTHON, cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    assert "Error" not in done.stderr
    said = re.findall(r"^feed.*: (\(.*\))$", FROM_PYTHON, re.MULTILINE)
    assert len(said) == 5
    assert [line for line in done.stdout.splitlines() if line.startswith("('")] == said


def test_figures_are_those_of_the_run_that_is_linked():
    (path,) = set(re.findall(r"\((tests/benchmark/results/[^)]*)\)", README))
    steps, totals = (ROOT / path).read_text("utf-8").split("prompt + 40 tokens, s")
    shown_here = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    header, *rows = shown_here
    assert header == ("milliseconds", "decode at 10", "at 960", "prefill of 960")
    assert len(rows) == 8
    measured = {name: figures for name, *figures in map(columns, steps.splitlines())}
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
