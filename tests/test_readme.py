"""README.md says what is so: its diff, its commands, their output, its links."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line.removeprefix("$ ") for kind, block in BLOCKS for line in block.splitlines()
            if kind == "sh" or (kind == "console" and line.startswith("$ "))]

# Not run here: installing, this very test command, the 124M model, and what prints timings.
NOT_RUN = [
    "pip install -r requirements.txt",
    "pip install -r tests/requirements.txt",
    "pip install -r tests/requirements-benchmark.txt",
    "python -m pytest tests",
    'python gpt2_kvcache.py "Alan Turing theorized that computers would one day become"',
    "python tests/benchmark.py",
]


def run(command: str) -> str:
    program, *args = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_diff_is_the_one_that_diff_prints():
    done = subprocess.run(["diff", "-u", "gpt2.py", "gpt2_kvcache.py"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    hunks = done.stdout.split("\n", 2)[2]
    assert [block for kind, block in BLOCKS if kind == "diff"] == [hunks]


def test_every_hunk_of_the_diff_has_its_sentence():
    (hunks,) = (block for kind, block in BLOCKS if kind == "diff")
    section = README.split("## The diff")[1].split("\n## ")[0]
    assert len(re.findall("^@@", hunks, re.M)) == len(re.findall(r"^\d+\. ", section, re.M))


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "console"])
def test_output_shown_is_the_output_printed(block):
    command, shown = block.split("\n", 1)
    assert run(command.removeprefix("$ ")) == shown


@pytest.mark.parametrize("command", [c for kind, block in BLOCKS if kind == "sh"
                                     for c in block.splitlines() if c not in NOT_RUN])
def test_command_without_output_shown_runs(command):
    run(command)


def test_gpt2_prints_what_the_quick_start_shows_for_the_cached_file():
    shown = next(block for kind, block in BLOCKS if kind == "console" and "gpt2_kvcache" in block)
    command, output = shown.split("\n", 1)
    assert run(command.removeprefix("$ ").replace("gpt2_kvcache.py", "gpt2.py")) == output


def test_exceptions_are_commands_of_the_readme():
    assert set(NOT_RUN) <= set(COMMANDS)


def test_local_links_resolve():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
