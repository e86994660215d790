"""What stands in for a person at a terminal: commands, a screen, and patience that ends."""
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def start(*args, shell='exec "$@"', **kwargs):
    """A running Python; shell is a command for sh, in which "$@" stands for that Python."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT}
    command = ["sh", "-c", shell, "sh", sys.executable, *args]
    with subprocess.Popen(command, encoding="utf-8", preexec_fn=heed_ctrl_c,
                          **defaults | kwargs) as process:
        try:
            yield process
        finally:
            process.kill()


def heed_ctrl_c():
    """What was started in the background ignores it, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(*args, text=None, **kwargs):
    """Standard output, standard error and status of a Python that reads text."""
    stdin = None if text is None else subprocess.PIPE
    with start(*args, stdin=stdin, **kwargs) as process:
        stdout, stderr = process.communicate(text)
        return stdout, stderr, process.returncode


def open_terminal():
    """Our end of a terminal, and the program's."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    return ours, its


@contextlib.contextmanager
def start_on_terminal(*args, **kwargs):
    """A running Python that has a terminal, but for what kwargs say, and our end of that."""
    ours, its = open_terminal()
    with start(*args, **{"stdin": its, "stdout": its, "stderr": its} | kwargs) as process:
        os.close(its)
        yield process, ours


def watch(*args, **kwargs):
    """All that a terminal shows of a Python, and its status."""
    with start_on_terminal(*args, **kwargs) as (process, ours):
        return shown(ours), process.wait()


def shown(ours, until=None):
    """What the terminal shows until this pattern comes, or until its program leaves it."""
    page = b""
    while until is None or not re.search(until, page):
        try:
            page += os.read(ours, 1 << 10)
        except OSError:  # it has left
            assert until is None, page
            os.close(ours)
            break
    return page.decode(errors="replace").replace("\r\n", "\n")


def screen(page):
    """The lines that stay on the screen. None is wrapped, and bars are gone."""
    lines = []
    for line in page.split("\n"):
        cells = ""
        for part in line.split("\r"):
            assert len(part) <= 80, f"wrapped: {part}"
            cells = part + cells[len(part) :]
        assert len(cells.rstrip()) <= 79 and "%|" not in cells, cells
        lines.append(cells.rstrip())
    return lines


@contextlib.contextmanager
def sealed_off(monkeypatch, cache, endpoint):
    """A minute in which no proxy, other hub or other cache of Hugging Face's is known."""
    def end(*_):
        pytest.fail("goes on for ever")

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
