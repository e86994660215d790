"""The command line, in real processes: what it prints, what it takes as text, what it refuses."""
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2
import gpt2_kvcache
import utils

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "1M"
PROGRAMS = ["gpt2.py", "gpt2_kvcache.py"]
MAINS = pytest.mark.parametrize("main", [gpt2.main, gpt2_kvcache.main], ids=PROGRAMS)
SHORT = ["--n_tokens_to_generate", "12", "--model_size", "1M"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    with socket.socket() as bound:  # it does not listen, and nobody else can while it is bound
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.setattr(utils, "BACKOFF", 0)
        yield os.environ["HF_ENDPOINT"]


def environment(**variables) -> dict:
    # One thread: what little there is to compute isn't worth more, least of all on a busy machine.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "", **variables}  # buffered, as it is for most users


def cli(*args, program="gpt2_kvcache.py", cwd=ROOT, shell=None, **variables):
    """Run the program; shell is a command for sh in which "$@" stands for it."""
    command = [sys.executable, ROOT / program, *args]
    if shell:
        command = ["sh", "-c", shell, "sh", *command]
    return subprocess.run(command, cwd=cwd, env=environment(**variables), capture_output=True,
                          encoding="utf-8", timeout=60)


def said(stderr: str) -> str:
    """What is on standard error apart from the progress bar."""
    lines = re.split("[\r\n]+", stderr)
    return "\n".join(line for line in lines if line and not line.startswith("generating:"))


def continuation(prompt: str, model_size="1M", models_dir=ROOT / "models") -> str:
    return gpt2_kvcache.main(prompt, 12, model_size, models_dir)


def assert_refused(done, *words: str):
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


# What it prints

@pytest.mark.parametrize("prompt", ["When night came", "\u201cNa\u00efve\u201d \U0001f600\n"])
def test_both_files_print_the_continuation_and_a_newline(prompt):
    expected = gpt2.main(prompt, 12, "1M", ROOT / "models")
    for program in PROGRAMS:
        done = cli(prompt, *SHORT, program=program)
        assert (done.returncode, done.stdout) == (0, expected + "\n")
        assert "12/12" in done.stderr and said(done.stderr) == ""


def test_prompt_of_the_readme():
    done = cli("When night came", "--n_tokens_to_generate", "40", "--model_size", "1M")
    assert done.stdout == (" to the castle, and the maiden said: 'I am going to the castle, and I "
                           "will give you a pair of gold, and you will find a golden apple.'\n\n"
                           "The maiden\n")


def test_empty_prompt_begins_a_document():
    done = cli("", *SHORT)
    assert done.stdout == continuation("<|endoftext|>") + "\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_explains_each_argument_and_prints_no_text(program, tmp_path):
    done = cli("hi", "--help", program=program, cwd=tmp_path)
    assert (done.returncode, done.stdout, [*tmp_path.iterdir()]) == (0, "", [])
    shown = " ".join(done.stderr.split())
    arguments = re.split(r"\n    (\w+): ", inspect.getdoc(gpt2.main).split("Args:")[1])[1:]
    assert arguments[::2] == [*inspect.signature(gpt2.main).parameters]
    for name, explanation in zip(arguments[::2], arguments[1::2]):
        assert name.upper() in shown
        assert " ".join(explanation.split()) in shown


# What is taken as text, though fire would make something else of it

@pytest.mark.parametrize("prompt", ["1984", "[1, 2]", "True", "None", '"quoted"', "1e5", "a,b",
                                    "-5 degrees", "{'a': 1}", "-", "# no"])
def test_prompt_is_text(prompt):
    assert cli(prompt, *SHORT).stdout == continuation(prompt) + "\n"


@pytest.mark.parametrize("prompt", ["-x marks", "--help", "--"])
def test_prompt_as_an_option_is_text(prompt):
    assert cli(*SHORT, f"--prompt={prompt}").stdout == continuation(prompt) + "\n"


def test_options_may_be_written_with_hyphens_or_an_equals_sign():
    done = cli("--model-size=1M", "--n-tokens-to-generate=12", "--prompt", "The king")
    assert done.stdout == continuation("The king") + "\n"


def test_model_size_and_models_dir_are_text(tmp_path):
    shutil.copytree(MODEL, tmp_path / "True" / "1984")
    done = cli("The king", "12", "1984", "--models_dir", "True", cwd=tmp_path)
    assert done.stdout == continuation("The king") + "\n"


def test_models_dir_may_be_absolute(tmp_path):
    done = cli("The king", *SHORT, "--models_dir", ROOT / "models", cwd=tmp_path)
    assert done.stdout == continuation("The king") + "\n"


# What is refused, before any work

REFUSED = [
    *((["hi", "--n_tokens_to_generate", n], f"n_tokens_to_generate is a whole number from 1 up, "
       f"not '{n}'") for n in ("0", "-1", "1.5", "abc", "1e3")),
    (["hi", "--n_tokens_to_generate"], "--n_tokens_to_generate needs a value"),
    (["hi", "--n_tokens_to_generate", "--model_size", "1M"], "n_tokens_to_generate needs a value"),
    (["hi", "--model_siez", "1M"], "--model_siez"),
    (["hi", "-m", "1M"], "'-m'"),
    (["hi", "5", "1M", "models", "extra"], "extra"),
    (["When", "night", "came"], "'night'"),
    ([], "prompt"),
    (["--prompt"], "--prompt needs a value"),
    (["-x marks"], "prompt"),
    (["hi", "--", "junk"], "arg: --"),
    (["hi", "--", "--trace"], "--trace"),
    (["hi", "-", "extra"], "'-'"),
    (["hi", "12", "1M", "models", "-", "upper"], "arg: -"),
]


@pytest.mark.parametrize("args, word", REFUSED, ids=[" ".join(a) or "nothing" for a, _ in REFUSED])
def test_bad_arguments_are_refused_in_one_line_before_any_work(args, word, tmp_path):
    # There is no model and no network here: to get as far as the model would be another error.
    assert_refused(cli(*args, cwd=tmp_path), word)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_prompt_that_is_too_long_is_refused_before_any_token(program):
    done = cli("the " * 30, "--n_tokens_to_generate", "500", "--model_size", "1M", program=program)
    n = len(utils.load_encoder_hparams_and_params("1M", ROOT / "models")[0].encode("the " * 30))
    assert_refused(done, f"{n} ", "500", "512")


def test_unknown_model_lists_those_that_there_are(tmp_path):
    shutil.copytree(MODEL, tmp_path / "models" / "my tune")
    assert_refused(cli("hi", "--model_size", "my_tune", cwd=tmp_path), "'my_tune'", "my tune",
                   *utils.PUBLISHED)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["my tune"]


def test_no_network_is_one_line_with_the_address_and_what_needs_none(no_network, tmp_path):
    program = """if True:
        import runpy, sys, utils
        utils.BACKOFF = 0
        sys.argv = ["gpt2.py", "hi", "--models_dir", sys.argv[1]]
        runpy.run_path("gpt2.py", run_name="__main__")"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, env=environment(),
                          capture_output=True, encoding="utf-8", timeout=60)
    assert_refused(done, no_network, "--model_size 1M")


BROKEN = {
    "vocab.json": lambda folder: (folder / "vocab.json").write_bytes(b"\xff\0garbage"),
    "merges.txt": lambda folder: (folder / "merges.txt").unlink(),
    "config.json": lambda folder: (folder / "config.json").unlink(),
    "model.safetensors": lambda folder: os.truncate(folder / "model.safetensors", 10**6),
}


@pytest.mark.parametrize("file", BROKEN)
def test_broken_model_is_refused_in_one_line_that_names_the_file(file, tmp_path):
    shutil.copytree(MODEL, tmp_path / "mine")
    BROKEN[file](tmp_path / "mine")
    # vocab.json and merges.txt are read as one tokenizer: for them the folder is named.
    named = tmp_path / "mine" / ("" if file == "vocab.json" else file)
    assert_refused(cli("hi", "--models_dir", tmp_path, "--model_size", "mine"), str(named))


# Ends that are nobody's mistake

def test_ctrl_c_while_generating_ends_with_130_and_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "gpt2.py", "hi", "--n_tokens_to_generate", "500", "--model_size", "1M"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    with process:
        shown = b""
        while not re.search(rb"[1-9]\d*/500", shown):
            shown += (byte := process.stderr.read(1))
            assert byte, shown
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == b""
    assert said((shown + stderr).decode()) == ""


def test_reader_that_left_ends_it_without_a_word():
    process = subprocess.Popen([sys.executable, "gpt2.py", "hi", *SHORT], cwd=ROOT,
                               env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               encoding="utf-8")
    with process:
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 141
    assert said(stderr) == ""


def test_reader_of_the_first_byte_gets_it():
    done = cli("When night came", *SHORT, shell='"$@" | head -c 1')
    assert done.stdout == " "
    assert said(done.stderr) == ""


def test_full_disk_is_one_line():
    done = cli("hi", *SHORT, shell='exec "$@" >/dev/full')
    assert done.returncode == 1
    assert said(done.stderr).startswith("gpt2_kvcache.py: ") and "\n" not in said(done.stderr)


def test_closed_standard_output_is_no_error():
    done = cli("hi", *SHORT, shell='exec "$@" >&-')
    assert (done.returncode, said(done.stderr)) == (0, "")


def test_closed_standard_error_leaves_the_text_alone():
    done = cli("The king", *SHORT, shell='exec "$@" 2>&-')
    assert (done.returncode, done.stdout) == (0, continuation("The king") + "\n")


@pytest.mark.parametrize("variables", [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
], ids=["PYTHONIOENCODING", "LC_ALL"])
def test_terminal_that_is_not_utf8_shows_question_marks(variables, tmp_path):
    folder = shutil.copytree(MODEL, tmp_path / "mine")
    vocab = (folder / "vocab.json").read_text("utf-8")  # "1984" goes on with <|endoftext|>
    (folder / "vocab.json").write_text(vocab.replace("|endoftext|", "\\u6f22\\u00e9"), "utf-8")
    text = continuation("1984", "mine", tmp_path)
    assert "\u6f22\u00e9" in text
    done = cli("1984", "12", "mine", tmp_path, **variables)
    assert (done.returncode, done.stdout) == (0, text.replace("\u6f22\u00e9", "??") + "\n")
    assert said(done.stderr) == ""


def test_error_that_the_terminal_cannot_show_is_still_one_line(tmp_path):
    done = cli("hi", "12", "\u6f22", tmp_path, PYTHONIOENCODING="ascii")
    assert_refused(done, r"\u6f22")


def test_bytes_that_are_not_utf8_are_replacement_characters():
    done = cli(b"caf\xe9 \xff", *SHORT)
    assert (done.returncode, done.stdout) == (0, continuation("caf\ufffd \ufffd") + "\n")


# main() as a library: it returns the text, and raises what the command line puts in one line

@MAINS
def test_main_returns_the_text_and_prints_nothing_on_standard_output(main, capsys):
    assert main("When night came", 4, "1M", ROOT / "models") == " to the castle,"
    assert capsys.readouterr().out == ""


@MAINS
@pytest.mark.parametrize("n", [0, -1, 1.5, "3", None, 512])
def test_main_raises_value_error_for_lengths(main, n):
    with pytest.raises(ValueError, match=re.escape(str(n))):
        main("hi", n, "1M", ROOT / "models")


@MAINS
def test_main_raises_value_error_for_an_unknown_model(main, tmp_path):
    with pytest.raises(ValueError, match="'2M'"):
        main("hi", model_size="2M", models_dir=tmp_path)


@MAINS
def test_main_raises_os_error_without_a_network(main, no_network, tmp_path):
    with pytest.raises(OSError, match=re.escape(no_network)):
        main("hi", models_dir=tmp_path)


def cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def garbage(name):
    return lambda folder: (folder / name).write_bytes(b"\xff\0garbage" * 9)


def configure(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    return damage


DAMAGED = {
    "config.json cut": (cut("config.json"), "config.json"),
    "config.json garbage": (garbage("config.json"), "config.json"),
    "vocab.json missing": (lambda folder: (folder / "vocab.json").unlink(), ""),
    "vocab.json cut": (cut("vocab.json"), ""),
    "merges.txt cut": (cut("merges.txt"), ""),
    "merges.txt garbage": (garbage("merges.txt"), ""),
    "weights cut": (cut("model.safetensors"), "model.safetensors"),
    "weights garbage": (garbage("model.safetensors"), "model.safetensors"),
    "wider than the weights": (configure(n_embd=256), "model.safetensors"),
    "narrower than the weights": (configure(n_embd=64), "model.safetensors"),
    "deeper than the weights": (configure(n_layer=5), "model.safetensors"),
    "shallower than the weights": (configure(n_layer=3), "model.safetensors"),
    "heads that don't divide": (configure(n_head=3), "config.json"),
    "smaller than the vocabulary": (configure(vocab_size=2000), "config.json"),
    "larger than the vocabulary": (configure(vocab_size=2100), "model.safetensors"),
    "longer than the weights": (configure(n_positions=1024), "model.safetensors"),
}


@pytest.mark.parametrize("damage, named", DAMAGED.values(), ids=DAMAGED)
def test_main_raises_value_error_that_names_the_damaged_file(damage, named, tmp_path):
    folder = shutil.copytree(MODEL, tmp_path / "mine")
    damage(folder)
    with pytest.raises(ValueError, match=re.escape(str(folder))) as raised:
        gpt2_kvcache.main("hi", 1, "mine", tmp_path)
    assert named in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "merges.txt"])
def test_main_raises_os_error_that_names_the_missing_file(file, tmp_path):
    folder = shutil.copytree(MODEL, tmp_path / "mine")
    (folder / file).unlink()
    with pytest.raises(OSError, match=re.escape(str(folder / file))):
        gpt2_kvcache.main("hi", 1, "mine", tmp_path)


def test_main_raises_value_error_for_a_folder_without_weights(tmp_path):
    folder = shutil.copytree(MODEL, tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="'mine'"):
        gpt2_kvcache.main("hi", 1, "mine", tmp_path)
