"""The command line: what it prints and when, what its words mean, what it refuses, how it ends."""
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest
from checkpoints import tiny_gpt2, write_model
from terminal import ROOT, finish, screen, sealed_off, shown, start, start_on_terminal, watch

import gpt2
import utils

SHORT = ["--n_tokens_to_generate=12", "--model_size=1M"]
TEXT = " was very angry, and said, 'I have no one"  # which follows "The king"
HELLO = "\u201cHello\u201d"
AFTER_HELLO = 3 * ", and the Princess"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONUNBUFFERED", "")  # buffered, as it is for most users
    with sealed_off(monkeypatch, cache=tmp_path / "none", endpoint="none"):
        yield


# ---- what is printed, and when


@pytest.mark.parametrize(("program", "prompt", "stdin", "text"), [
    ("gpt2.py", "The king", None, TEXT),
    ("gpt2_kvcache.py", HELLO, None, AFTER_HELLO),
    ("gpt2.py", "-", HELLO + "\n", AFTER_HELLO)])
def test_prints_the_continuation_and_nothing_else(program, prompt, stdin, text):
    assert finish(program, prompt, *SHORT, text=stdin) == (text + "\n", "", 0)


@pytest.mark.parametrize(("program", "prompt", "text", "speed"), [
    ("gpt2.py", "The king", TEXT, r"first token [\d.]+ ms, then 11 in \d+\.\d\d s: .* a second"),
    ("gpt2_kvcache.py", "1984", ".", r"first token [\d.]+ ms"),  # then <|endoftext|>
    ("gpt2_kvcache.py", "1984.", "", "")])
def test_terminal_shows_the_text_up_to_its_end_and_then_the_speed(program, prompt, text, speed):
    page, status = watch(program, prompt, *SHORT)
    line, *rest = page.split("\n")
    assert (line, status) == (text, 0)
    assert re.fullmatch(speed, "".join(rest))


@pytest.mark.parametrize(("times", "line"), [
    ([7, 7.5], "first token 500.0 ms"),
    ([0, 1, 5], "first token 1000.0 ms, then 1 in 4.00 s: 0.25 tokens a second"),
    ([0, 1, 1, 1.125], "first token 1000.0 ms, then 2 in 0.12 s: 16 tokens a second"),
    ([0, 1, 1 + 2**-11], "first token 1000.0 ms, then 1 in 0.00 s: 2,048 tokens a second")])
def test_speed(times, line):
    assert utils.speed(times) == line


@pytest.mark.parametrize("program", ["gpt2.py", "gpt2_kvcache.py"])
def test_ctrl_c_keeps_the_text_that_a_terminal_already_shows(program, tmp_path):
    write_model(tmp_path / "tiny", tiny_gpt2(n_ctx=100_000), n_positions=100_000)
    args = ["--n_tokens_to_generate=90000", "--model_size=tiny", f"--models_dir={tmp_path}"]
    with start_on_terminal(program, "hi", *args) as (process, ours):
        shown(ours, until=rb"[^\r\n]{20}")
        process.send_signal(signal.SIGINT)
        assert (shown(ours)[-1], process.wait()) == ("\n", 130)


def test_terminal_shows_a_bar_where_the_text_goes_to_a_file(tmp_path):
    with open(tmp_path / "text", "w") as file:
        bar, _ = watch("gpt2.py", "The king", *SHORT, stdout=file)
    assert (tmp_path / "text").read_text() == TEXT + "\n"
    assert " 12/12 " in bar and "first token" not in bar


def test_terminal_shows_the_text_alone_where_it_comes_by_a_pipe():
    assert watch("gpt2.py", "The king", *SHORT, shell='"$@" | cat') == (TEXT + "\n", 0)


def test_each_piece_is_written_before_the_next_one_is_chosen(tmp_path, monkeypatch):
    file = tmp_path / "text"

    def pieces():
        for n in range(3):
            assert file.read_text() == n * "?"
            yield "\u6f22"

    monkeypatch.setattr(sys, "stdout", open(file, "w", encoding="ascii"))  # hence the "?"
    utils.print_pieces(pieces(), 3)
    assert file.read_text() == "???\n"


def test_defaults_are_40_tokens_of_124m_beside_the_file(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "models/1M", tmp_path / "models/124M")
    text = "".join(gpt2.main("The king", n_tokens_to_generate=40, model_size="1M"))
    assert finish(tmp_path / "gpt2.py", "The king") == (text + "\n", "", 0)


def test_models_dir_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", str(ROOT))
    pieces = gpt2.main("1984", model_size="1M", models_dir="~/models")
    assert "".join(pieces) == "."


def test_help_without_a_pager(monkeypatch):
    monkeypatch.setenv("PAGER", "false")
    page, status = watch("gpt2.py", "hi", "--help")
    assert status == 0 and screen(page)
    for words in ("gpt2.py PROMPT", "--n_tokens_to_generate 40", "--model_size 124M",
                  "--models_dir", "Args:", '    python gpt2.py "Once upon a time" --model_size 1M'):
        assert words in page


# ---- what the words of a command line mean


@pytest.fixture
def parsed(capfd):
    """The values of main's arguments that parse() makes of a command line, in silence."""
    def parsed(*words):
        arguments = utils.parse(gpt2.main, [*words])
        assert capfd.readouterr() == ("", "")
        return tuple(arguments.values())

    return parsed


@pytest.mark.parametrize("prompt", ["1984", "1e5", "[1, 2]", "{'a': 1}", "a,b", "True", "None",
                                    '"quoted"', "# no", "", "a=b", "-5 degrees", "-\u00e9"])
def test_prompt_stays_text(parsed, prompt):
    assert parsed(prompt) == (prompt, 40, "124M", None)


@pytest.mark.parametrize("prompt", ["--once", "-h", "-x marks", "--model_size=1M", "a=b", ""])
def test_prompt_after_two_hyphens_or_as_an_option(parsed, prompt):
    assert parsed("--model_size", "2M", "--", prompt) == (prompt, 40, "2M", None)
    assert parsed(f"--prompt={prompt}") == (prompt, 40, "124M", None)


@pytest.mark.parametrize(("stdin", "prompt"), [
    (b"a", "a"), (b"a\n", "a"), (b"a\r\n", "a"), (b" a\n\n", " a\n"), (b"", ""),
    (b"\xef\xbb\xbfa", "a"), (b"caf\xe9", "caf\udce9")])  # which the tokenizer refuses
def test_hyphen_is_standard_input_but_for_one_newline(parsed, monkeypatch, tmp_path, stdin, prompt):
    (tmp_path / "stdin").write_bytes(stdin)
    monkeypatch.setattr(sys, "stdin", open(tmp_path / "stdin"))
    assert parsed("-")[0] == prompt


@pytest.mark.parametrize("words", [
    ["--n_tokens_to_generate", "3", "--model_size", "1984", "hi", "--models_dir", "True"],
    ["hi", "--n-tokens-to-generate", "3", "--model-size=1984", "--models-dir=True"]])
def test_options_with_hyphens_or_an_equals_sign(parsed, words):
    assert parsed(*words) == ("hi", 3, "1984", "True")


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "abc", "1e3", ""])
def test_rejects_invalid_n_tokens(parsed, n):
    with pytest.raises(utils.UserError, match=f"from 1 up, not '{n}'"):
        parsed("hi", "--n_tokens_to_generate", n)


def test_an_option_whose_default_is_0_may_be_0():
    def main(prompt, *, n_random=0):
        pass

    assert utils.parse(main, ["hi", "--n_random", "0"])["n_random"] == 0


@pytest.mark.parametrize(("words", "said"), [
    ([], "'prompt'"), (["Hello", "there"], "too many"), (["a", "--prompt=b"], "'prompt'"),
    (["--model_siez", "1M", "hi"], "'model_siez'"), (["--n", "5", "hi"], "'n'"),
    (["hi", "-m"], "'m'"), (["-like this"], "'prompt'")])
def test_other_words_are_refused_with_a_list_of_options(parsed, words, said):
    listed = "options are --n_tokens_to_generate, --model_size, --models_dir and --help; give one"
    with pytest.raises(utils.UserError, match=f"{said}.* {listed}"):
        parsed(*words)


# ---- refusals, and other ends


@pytest.mark.parametrize(("program", "words", "said"), [
    ("gpt2.py", ["hi", "--model_size=a\nb"], "no folder a b in .*models, which has 1M; 124M, 355M"),
    ("gpt2.py", ["hi", *SHORT, "--models_dir=~no-one/x"], "there is no folder ~no-one/x"),
    ("gpt2.py", [b"caf\xe9", *SHORT], "UTF-8"),
    ("gpt2_kvcache.py", ["hi", *SHORT, "--n_tokens_to_generate=999"], "999")])
def test_refusal_is_one_line_and_standard_output_stays_empty(program, words, said):
    stdout, stderr, status = finish(program, *words)
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1)
    assert re.match(f"{program}: .*{said}", stderr)


def test_too_little_memory_is_one_line():
    with pytest.raises(SystemExit, match=": not enough memory: "), utils.plain_endings():
        np.empty(1 << 60, np.int8)


def test_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="matmul"), utils.plain_endings():
        np.ones(2) @ np.ones(3)


def test_older_python_is_told(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        utils.run(gpt2.main)


def test_ctrl_c_while_a_file_is_read(tmp_path):
    folder = write_model(tmp_path / "slow")
    (folder / "vocab.json").unlink()
    os.mkfifo(folder / "vocab.json")
    args = ["--model_size=slow", f"--models_dir={tmp_path}"]
    with start("gpt2.py", "hi", *args) as process, open(folder / "vocab.json", "wb"):
        process.send_signal(signal.SIGINT)  # since it has opened the other end, and waits
        assert (*process.communicate(), process.returncode) == ("", "", 130)


OWN_SCRIPT = """
import os, signal, sys
before = dict(os.environ), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
import gpt2, gpt2_kvcache
assert before == (dict(os.environ), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM))
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("mine")
"""


def test_a_script_that_imports_the_model_handles_ctrl_c_itself():
    assert finish("-c", OWN_SCRIPT) == ("mine\n", "", 0)


@pytest.mark.parametrize("words", [["hi", *SHORT], ["-h"]])
def test_broken_pipe(words):
    ours, its = os.pipe()
    os.close(ours)
    assert finish("gpt2.py", *words, stdout=its) == (None, "", 141)
    os.close(its)
