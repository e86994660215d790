"""The text as it is chosen: on a terminal, in a file, after Ctrl-C, at the end of a document."""
import os
import re
import signal

import pytest
from checkpoints import tiny_gpt2, write_model
from terminal import finish, open_terminal, shown, start

import gpt2
import gpt2_kvcache
import utils

BOTH = pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
ARGS = ["The king", "--n_tokens_to_generate=12", "--model_size=1M"]
TEXT = " was very angry, and said, 'I have no one"
SPEED = r"first token [\d.]+ ms, then {n} in \d+\.\d\d s: [\d,]+ tokens a second"


def program(module):
    return f"{module.__name__}.py"


def endless(folder):
    """Words of a command that takes far longer than a test: 90,000 tokens."""
    write_model(folder / "tiny", tiny_gpt2(n_ctx=100_000), n_positions=100_000)
    return ["hi", "--model_size=tiny", f"--models_dir={folder}", "--n_tokens_to_generate=90000"]


@BOTH
def test_terminal_shows_the_text_and_then_the_speed_in_one_line(module):
    ours, its = open_terminal()
    with start(program(module), *ARGS, stdout=its, stderr=its) as process:
        os.close(its)
        text, speed, rest = shown(ours).split("\r\n")
        assert (text, rest, process.wait()) == (TEXT, "", 0)
        assert re.fullmatch(SPEED.format(n=11), speed)


@BOTH
def test_terminal_shows_first_tokens_while_others_are_still_to_come(module, tmp_path):
    ours, its = open_terminal()
    with start(program(module), *endless(tmp_path), stdout=its, stderr=its) as process:
        os.close(its)
        shown(ours, until=rb"[^\r\n]{20}")
        assert process.poll() is None


@BOTH
def test_ctrl_c_keeps_the_text_so_far_and_ends_its_line(module, tmp_path):
    ours, its = open_terminal()
    with start(program(module), *endless(tmp_path), stdout=its) as process:
        os.close(its)
        shown(ours, until=rb"[^\r\n]{20}")
        process.send_signal(signal.SIGINT)
        assert shown(ours).endswith("\r\n")
        assert (process.stderr.read(), process.wait()) == ("", 130)


@BOTH
def test_bar_is_shown_where_the_text_goes_to_a_file(module, tmp_path):
    ours, its = open_terminal()
    file = open(tmp_path / "text", "w")
    with file, start(program(module), *ARGS, stdout=file, stderr=its) as process:
        os.close(its)
        bar = shown(ours)
        assert process.wait() == 0
    assert (tmp_path / "text").read_text() == TEXT + "\n"
    assert " 12/12 " in bar and "first token" not in bar


def test_no_bar_and_no_speed_where_there_is_no_terminal():
    assert finish("gpt2.py", *ARGS) == (TEXT + "\n", "", 0)


@pytest.mark.parametrize(("n", "speed"), [(1, r"first token [\d.]+ ms"), (2, SPEED.format(n=1))])
def test_speed_of_one_and_two_tokens(n, speed):
    ours, its = open_terminal()
    words = [*ARGS, f"--n_tokens_to_generate={n}"]
    with start("gpt2.py", *words, stdout=its, stderr=its):
        os.close(its)
        assert re.fullmatch(speed, shown(ours).split("\r\n")[1])


@BOTH
def test_text_ends_at_endoftext(module, model):
    ids = list(module.generate(model.encoder.encode("1984"), model.params, 4, 7))
    assert ids.index(2047) == 1  # <|endoftext|>
    pieces = list(module.main("1984", n_tokens_to_generate=7, model_size="1M"))
    assert pieces == [model.encoder.decode(ids[:1])]


@BOTH
def test_refusal_leaves_standard_output_empty(module):
    stdout, stderr, status = finish(program(module), *ARGS, "--n_tokens_to_generate=999")
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1)


def test_speed_below_ten_tokens_a_second_has_digits():
    said = "first token 1000.0 ms, then 1 in 4.00 s: 0.25 tokens a second"
    assert utils.speed([0, 1, 5]) == said
