"""README.md says what is so: its diff, its commands, their output, its links, its size."""
import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = []
SHOWN = {}  # {the last command of a block: the text block that follows}
for (kind, block), (next_kind, next_block) in zip(BLOCKS, [*BLOCKS[1:], ("", "")]):
    if kind == "sh":
        COMMANDS += block.splitlines()
        if next_kind == "text":
            SHOWN[COMMANDS[-1]] = next_block

# Not run here: making an environment, this very test command, and the 124M model.
NOT_RUN = [
    "python -m venv .venv",
    ". .venv/bin/activate",
    "pip install -r requirements.txt",
    'python gpt2_kvcache.py "Alan Turing theorized that computers would one day become"',
    "pip install -r tests/requirements.txt",
    "python -m pytest tests",
]


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


def test_diff_is_shown_whole_and_in_order():
    done = subprocess.run(["diff", "-U0", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    hunks = re.split(r"^@@.*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert [block for kind, block in BLOCKS if kind == "diff"] == hunks


@pytest.mark.parametrize("command", [c for c in SHOWN if "compare.py" not in c])
def test_output_shown_is_printed(command):
    assert run(command) == SHOWN[command]


@pytest.mark.parametrize("command", [c for c in SHOWN if "compare.py" in c])
def test_comparison_shown_is_printed_but_for_its_figures(command):
    printed = without_figures(run(command)).splitlines()
    for line in without_figures(SHOWN[command]).split("\n\nYes")[0].splitlines():
        assert line in printed, line


def test_no_command_is_left_out():
    assert set(COMMANDS) == {*NOT_RUN, *SHOWN}


def test_both_files_print_what_the_quick_start_shows():
    command = next(command for command in SHOWN if "gpt2_kvcache.py" in command)
    assert run(command.replace("gpt2_kvcache.py", "gpt2.py")) == SHOWN[command]


def test_lines_of_toy_code_run():
    (toy,) = [block for kind, block in BLOCKS if kind == "python"]
    found = {}
    exec(toy, found)
    assert found["n"] == 4 and found["cached"].shape == (4,)


def test_python_example():
    (example,) = [block for kind, block in BLOCKS if kind == "pycon"]
    assert example.count(">>>") > 5
    parsed = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
    assert doctest.DocTestRunner().run(parsed).failed == 0


def test_figures_quoted_are_those_of_a_run_that_was_kept():
    """Every row of the table of measurements stands in the results file that README links to."""
    (path,) = set(re.findall(r"\((tests/bench/results/[^)]*)\)", README))
    kept = (ROOT / path).read_text("utf-8").split()
    rows = re.findall(r"^\| *\d.*\|$", README, re.MULTILINE)
    assert len(rows) == 4
    for figure in " ".join(rows).replace("|", " ").split():
        assert figure in kept, figure


def test_page_is_short_and_narrow():
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    running_text = re.sub(r"^\|.*$|\]\([^)]*\)", "", text, flags=re.MULTILINE)
    words = [word for word in running_text.split() if re.search("[A-Za-z]", word)]
    assert len(words) <= 1300
    assert max(len(line) for _, block in BLOCKS for line in block.splitlines()) <= 88
    for line in text.splitlines():
        assert len(line) <= 100 or "](" in line, line


def test_local_links_resolve():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
