"""The command line: what it prints, what it takes as text, what it refuses, how it ends."""
import ast
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import gpt2
import gpt2_kvcache
import utils

ROOT = Path(__file__).parent.parent
BOTH = pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
SHORT = ["--n_tokens_to_generate", "12", "--model_size", "1M"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "no://hub")  # to get as far as a download is another error
    monkeypatch.setenv("PYTHONUNBUFFERED", "")  # buffered, as it is for most users


def start(*args, shell='exec "$@"', **kwargs):
    """Start Python; shell is a command for sh in which "$@" stands for that."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT,
                "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = ["sh", "-c", shell, "sh", sys.executable, *args]
    return subprocess.Popen(command, encoding="utf-8", **defaults | kwargs)


def finish(*args, **kwargs):
    """Standard output, standard error, status."""
    with start(*args, **kwargs) as process:
        return *process.communicate(), process.wait()


def open_terminal():
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 100))
    return ours, its


def shown(ours, until=b"(?!)"):
    """What the terminal shows until this comes, or else all."""
    seen = b""
    try:
        while not re.search(until, seen):
            seen += os.read(ours, 1 << 10)
    except OSError:  # the program has left
        os.close(ours)
    return seen.decode(errors="replace")


def text(prompt):
    return gpt2_kvcache.main(prompt, n_tokens_to_generate=12, model_size="1M")


@pytest.fixture
def understood(monkeypatch, capfd):
    """What run() makes of a command line: main's arguments, or the line that refuses it."""
    def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None):
        return repr((prompt, n_tokens_to_generate, model_size, models_dir))

    def understood(*args):
        monkeypatch.setattr(sys, "argv", ["gpt2.py", *args])
        try:
            utils.run(main)
        except SystemExit as end:
            assert capfd.readouterr() == ("", "")
            return end.code
        return ast.literal_eval(capfd.readouterr().out)

    return understood


@BOTH
def test_prints_the_continuation_and_nothing_else(module):
    prompt = "\u201cNa\u00efve\u201d \U0001f600\n"
    assert finish(f"{module.__name__}.py", prompt, *SHORT) == (text(prompt) + "\n", "", 0)


@BOTH
def test_main_returns_the_text_and_prints_nothing(module, model, capfd):
    returned = module.main("The king", n_tokens_to_generate=12, model_size="1M")
    ids = gpt2.generate(model.encoder.encode("The king"), model.params, model.n_head, 12)
    assert (returned, *capfd.readouterr()) == (model.encoder.decode(ids), "", "")


@BOTH
def test_empty_prompt_begins_a_document(module):
    assert module.main("", n_tokens_to_generate=12, model_size="1M") == text("<|endoftext|>")


@BOTH
def test_bar_counts_to_the_end_on_a_terminal(module):
    ours, its = open_terminal()
    with start(f"{module.__name__}.py", "hi", *SHORT, stderr=its):
        os.close(its)
        assert " 12/12 " in shown(ours)


@pytest.mark.parametrize("prompt", ["1984", "1e5", "[1, 2]", "{'a': 1}", "a,b", "True", "None",
                                    '"quoted"', "# no", "", "a=b", "-5 degrees", "-", "-\u00e9"])
def test_prompt_stays_text(understood, prompt):
    assert understood(prompt) == (prompt, 40, "124M", None)


@pytest.mark.parametrize("prompt", ["-x marks", "--help", "--", "a=b", ""])
def test_prompt_as_an_option(understood, prompt):
    assert understood(f"--prompt={prompt}") == (prompt, 40, "124M", None)


@pytest.mark.parametrize("args", [
    ["--n_tokens_to_generate", "3", "--model_size", "1984", "hi", "--models_dir", "True"],
    ["hi", "--n-tokens-to-generate", "3", "--model-size=1984", "--models-dir=True"]])
def test_options_with_hyphens_or_an_equals_sign(understood, args):
    assert understood(*args) == ("hi", 3, "1984", "True")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_without_a_pager(flag, monkeypatch):
    monkeypatch.setenv("PAGER", "false")
    ours, its = open_terminal()
    with start("gpt2.py", "hi", flag, stdin=its, stdout=its) as process:
        os.close(its)
        page = shown(ours)
        assert (process.stderr.read(), process.wait()) == ("", 0)
    assert all(f"--{name}" in page for name in gpt2.main.__kwdefaults__) and "prompt" in page


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "abc", "1e3", ""])
def test_rejects_invalid_n_tokens(understood, n):
    assert f"from 1 up, not {n!r}" in understood("hi", "--n_tokens_to_generate", n)


@pytest.mark.parametrize("args", [["--n_tokens_to_generate"], ["--models_dir", "--model_size=1M"]])
def test_rejects_an_option_without_a_value(understood, args):
    assert f"{args[0]} needs a value" in understood("hi", *args)


@pytest.mark.parametrize("option", ["--model_siez", "-m", "-like this", "--"])
def test_unknown_option_may_be_a_prompt(understood, option):
    line = f'gpt2.py: unknown option {option}; if it is the prompt, write --prompt="{option}"'
    assert understood(option, "1M") == line


@pytest.mark.parametrize("words", [[], ["Chapter", "3"], ["Hello", "there"], ["a", "--prompt=b"]])
def test_asks_to_quote_the_prompt(understood, words):
    assert "quote the prompt" in understood(*words)


def test_error_with_a_line_break_is_one_line():
    assert finish("gpt2.py", "-like\nthis")[1].count("\n") == 1


def test_rejects_a_prompt_that_is_not_utf8():
    stdout, stderr, status = finish("gpt2.py", b"caf\xe9", *SHORT)
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1) and "UTF-8" in stderr


@pytest.mark.parametrize("wrong", ["--n_tokens_to_generate=0", "--model_size=other"])
def test_refusal_is_one_line_and_makes_no_file(wrong, tmp_path):
    stdout, stderr, status = finish("gpt2.py", "hi", wrong, "--models_dir", tmp_path)
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1)
    assert stderr.startswith("gpt2.py: ") and not [*tmp_path.iterdir()]


def test_bug_keeps_its_traceback(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    code = (tmp_path / "gpt2.py").read_text("utf-8")
    code = code.replace("reshape(n_seq, n_embd)", "reshape(n_embd, n_seq)")  # in mha
    (tmp_path / "gpt2.py").write_text(code, "utf-8")
    out, err, status = finish(tmp_path / "gpt2.py", "hi", *SHORT, f"--models_dir={ROOT}/models")
    assert out == "" and "Traceback" in err and "ValueError: matmul" in err and status != 0


@pytest.mark.parametrize("option", [[], ["--models_dir=mine"], ["--models_dir", "~/hers"]])
def test_models_dir(option, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for link in ("mine", "home/hers"):
        (tmp_path / link).symlink_to(ROOT / "models")
    done = finish(ROOT / "gpt2.py", "hi", *SHORT, *option, cwd=tmp_path)
    assert done == (text("hi") + "\n", "", 0)


def test_ctrl_c():
    ours, its = open_terminal()
    args = ("gpt2.py", "hi", "--n_tokens_to_generate", "500", "--model_size", "1M")
    with start(*args, stderr=its) as process:
        os.close(its)
        shown(ours, rb" [1-9]\d*/500 ")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in shown(ours)
        assert (process.stdout.read(), process.wait()) == ("", 130)


@pytest.mark.parametrize("args", [["hi", *SHORT], ["--help"]])
def test_broken_pipe(args):
    ours, its = os.pipe()
    os.close(ours)
    assert finish("gpt2.py", *args, stdout=its) == (None, "", 141)
    os.close(its)


def test_reader_of_the_first_byte_gets_it():
    assert finish("gpt2.py", "hi", *SHORT, shell='"$@" | head -c 1') == (text("hi")[0], "", 0)


@pytest.mark.parametrize("args", [["hi", *SHORT], ["--help"]])
def test_full_disk_is_one_line(args):
    stdout, stderr, status = finish("gpt2.py", *args, shell='exec "$@" >/dev/full')
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1) and "space" in stderr


def test_closed_standard_output():
    assert finish("gpt2.py", "hi", *SHORT, shell='exec "$@" >&-') == ("", "", 0)


def test_closed_standard_error():
    assert finish("gpt2.py", "hi", *SHORT, shell='exec "$@" 2>&-') == (text("hi") + "\n", "", 0)


def test_terminal_that_is_not_utf8(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code = 'import utils; utils.run(lambda prompt, *, n_tokens_to_generate=1: "\\u00e9 \\u6f22")'
    assert finish("-c", code, "hi") == ("? ?\n", "", 0)
