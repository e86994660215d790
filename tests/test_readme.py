"""README.md says what is so: its diff, its commands, their output, its links."""
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
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
INSTALL = "$ pip install -q -r requirements.txt\n"
CONSOLES = [block.removeprefix(INSTALL) for kind, block in BLOCKS if kind == "console"]
MEASURED = "$ python tests/bench/benchmark.py\n"  # takes 15 minutes; its runs are kept

# Not run here: installing, this very test command, the 124M model, and what prints timings.
NOT_RUN = [
    "pip install -r tests/requirements.txt",
    "python -m pytest tests",
    'python gpt2_kvcache.py "Alan Turing theorized that computers would one day become"',
]


def run(command):
    program, *args = shlex.split(command.removeprefix("time "))
    command = [{"python": sys.executable}.get(program, program), *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_diff():
    done = subprocess.run(["diff", "-U0", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    assert [block for kind, block in BLOCKS if kind == "diff"] == [done.stdout.split("\n", 2)[2]]


@pytest.mark.parametrize("block", [b for b in CONSOLES if not b.startswith(MEASURED)])
def test_output_shown_is_printed(block):
    command, shown = block.split("\n", 1)
    assert shown in run(command.removeprefix("$ "))


def test_benchmark_shown_is_a_run_that_was_kept():
    (shown,) = (b.removeprefix(MEASURED) for b in CONSOLES if b.startswith(MEASURED))
    results = (ROOT / "tests/bench/results").iterdir()
    assert any(shown in path.read_text("utf-8") for path in results)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in NOT_RUN])
def test_command_runs(command):
    run(command)


def test_python_example():
    (example,) = (block for kind, block in BLOCKS if kind == "pycon")
    assert example.count(">>>") > 5
    parsed = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
    assert doctest.DocTestRunner().run(parsed).failed == 0


def test_both_files_print_what_the_quick_start_shows():
    command, shown = next(b for b in CONSOLES if "gpt2_kvcache.py" in b).split("\n", 1)
    assert run(command.removeprefix("$ ").replace("gpt2_kvcache.py", "gpt2.py")) == shown


def test_exceptions_are_commands_of_the_readme():
    assert set(NOT_RUN) <= set(COMMANDS)


def test_local_links_resolve():
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
               for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
