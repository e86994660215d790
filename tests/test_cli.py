"""The command line: what it prints, what it takes as text, what it refuses, how it ends."""
import ast
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from checkpoints import TF_CHECKPOINT, tiny_gpt2, write_model
from terminal import ROOT, finish, open_terminal, sealed_off, shown, start

import gpt2
import gpt2_kvcache
import utils
from encoder import Encoder

BOTH = pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])
SHORT = ["--n_tokens_to_generate", "12", "--model_size", "1M"]
OPTIONS = "the options are --n_tokens_to_generate, --model_size, --models_dir and --help"

# As people write it; and the ids that transformers makes of it with the vocabulary of models/1M.
MARKDOWN = "# The king\n\n- \u6c49\u5b57 \U0001f600 and *more*  \n"
MARKDOWN_IDS = [2, 374, 476, 198, 198, 12, 220, 162, 109, 231, 161, 255, 245, 220, 172, 253, 246,
                222, 269, 220, 9, 76, 373, 9, 220, 220, 198]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONUNBUFFERED", "")  # buffered, as it is for most users
    with sealed_off(monkeypatch, cache=tmp_path / "none", endpoint="none"):
        yield


def text(prompt):
    return gpt2_kvcache.main(prompt, n_tokens_to_generate=12, model_size="1M")


def program(module):
    return f"{module.__name__}.py"


def one_line(done):
    """The one line with which a command was refused."""
    stdout, stderr, status = done
    assert (stdout, stderr.count("\n"), status) == ("", 1, 1)
    return stderr


# ---- text in, text out


@BOTH
def test_prints_the_continuation_and_nothing_else(module):
    prompt = "\u201cNa\u00efve\u201d \U0001f451\n"
    assert finish(program(module), prompt, *SHORT) == (text(prompt) + "\n", "", 0)


def test_hyphen_stands_for_all_of_standard_input():
    assert finish("gpt2.py", "-", *SHORT, text=MARKDOWN) == (text(MARKDOWN) + "\n", "", 0)


@BOTH
def test_main_continues_the_ids_of_its_prompt_and_prints_nothing(module, model, capfd):
    returned = module.main(MARKDOWN, n_tokens_to_generate=np.int64(12), model_size="1M")
    ids = gpt2.generate(MARKDOWN_IDS, model.params, model.n_head, 12)
    assert (returned, *capfd.readouterr()) == (model.encoder.decode(ids), "", "")


def write_model_that_says(folder, text):
    """A model that says text, whatever it is asked: its layer adds nothing, its positions decide.

    Returns how many tokens text is.
    """
    ids = Encoder(TF_CHECKPOINT).encode(text)
    n_ctx = 1 + len(ids)

    tensors = tiny_gpt2(n_ctx=n_ctx, n_embd=280, n_layer=1)
    for _, array in tensors.values():
        array[:] = 0
    tensors["ln_f.weight"][1][:] = 1
    tensors["wte.weight"][1][:] = np.eye(280)
    tensors["wpe.weight"][1][:-1] = 2 * np.eye(280)[ids]
    write_model(folder, tensors, n_positions=n_ctx, n_embd=280, n_layer=1)
    return len(ids)


@BOTH
def test_letters_of_several_tokens_come_out_whole(module, tmp_path):
    n_tokens = write_model_that_says(tmp_path / "speaker", MARKDOWN)
    said = module.main("x", n_tokens_to_generate=n_tokens, model_size="speaker",
                       models_dir=tmp_path)
    assert said == MARKDOWN


def test_terminal_that_is_not_utf8_shows_question_marks(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    n_tokens = write_model_that_says(tmp_path / "speaker", "\u00e9 \u6f22")
    done = finish("gpt2.py", "x", f"--n_tokens_to_generate={n_tokens}", "--model_size=speaker",
                  f"--models_dir={tmp_path}")
    assert done == ("? ?\n", "", 0)


@BOTH
def test_empty_prompt_begins_a_document(module):
    assert module.main("", n_tokens_to_generate=12, model_size="1M") == text("<|endoftext|>")


def copy_program(folder):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)


def test_defaults_are_40_tokens_of_124m_beside_the_file(tmp_path):
    copy_program(tmp_path)
    shutil.copytree(ROOT / "models/1M", tmp_path / "models/124M")
    expected = gpt2.main("The king", n_tokens_to_generate=40, model_size="1M") + "\n"
    from_python = ("import gpt2, gpt2_kvcache",
                   "print(gpt2.main('The king'))",
                   "print(gpt2_kvcache.main('The king'))")

    assert finish(tmp_path / "gpt2.py", "The king") == (expected, "", 0)
    assert finish(tmp_path / "gpt2_kvcache.py", "The king") == (expected, "", 0)
    assert finish("-c", "\n".join(from_python), cwd=tmp_path) == (expected * 2, "", 0)


@pytest.mark.parametrize("models_dir", ["mine", "~/hers"])
def test_models_dir(models_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    os.mkdir("home")
    for link in ("mine", "home/hers"):
        os.symlink(ROOT / "models", link)
    here = gpt2.main("hi", n_tokens_to_generate=12, model_size="1M", models_dir=models_dir)
    assert here == text("hi")


@BOTH
def test_bar_counts_to_the_end_on_a_terminal(module):
    ours, its = open_terminal()
    with start(program(module), "hi", *SHORT, stderr=its):
        os.close(its)
        assert " 12/12 " in shown(ours)


def test_help_without_a_pager(monkeypatch):
    monkeypatch.setenv("PAGER", "false")
    ours, its = open_terminal()
    with start("gpt2.py", "hi", "--help", stdin=its, stdout=its) as process:
        os.close(its)
        page = shown(ours)
        assert (process.stderr.read(), process.wait()) == ("", 0)
    for words in ("gpt2.py PROMPT", "--n_tokens_to_generate 40", "--model_size 124M",
                  "--models_dir", "Args:", '    python gpt2.py "Once upon a time" --model_size 1M'):
        assert words in page


# ---- what the words of a command line mean


@pytest.fixture
def understood(monkeypatch, capfd):
    """What run() makes of a command line: main's arguments, or the line that refuses it."""
    def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None):
        """Help."""
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


@pytest.mark.parametrize("prompt", ["1984", "1e5", "[1, 2]", "{'a': 1}", "a,b", "True", "None",
                                    '"quoted"', "# no", "", "a=b", "-5 degrees", "-\u00e9"])
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


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "abc", "1e3", "", "9" * 5000])
def test_rejects_invalid_n_tokens(understood, n):
    line = understood("hi", "--n_tokens_to_generate", n)
    assert f"from 1 up, not '{n[:30]}" in line
    assert len(line) < 200


@pytest.mark.parametrize("args", [["--n_tokens_to_generate"], ["--models_dir", "--model_size=1M"]])
def test_rejects_an_option_without_a_value(understood, args):
    assert f"{args[0]} needs a value" in understood("hi", *args)


@pytest.mark.parametrize("option", ["--model_siez", "-m", "-like this", "--"])
def test_unknown_option_lists_those_there_are(understood, option):
    assert understood(option, "1M") == (f"gpt2.py: unknown option {option}; if it is the prompt, "
                                        f'write --prompt="{option}"; {OPTIONS}')


@pytest.mark.parametrize("words", [[], ["Hello", "there"], ["a", "--prompt=b"]])
def test_asks_for_one_prompt_in_quotes(understood, words):
    line = understood(*words)
    assert line.startswith('gpt2.py: give one prompt, in quotes, "like this"')
    assert line.endswith(OPTIONS)


# ---- refusals


def test_refusal_is_one_line_and_makes_no_file(tmp_path):
    line = one_line(finish("gpt2.py", "hi", "--model_size=a\nb", "--models_dir", tmp_path))
    assert line.startswith("gpt2.py: no model a b in ")
    assert os.listdir(tmp_path) == []


def test_unknown_model_says_what_is_there_and_what_can_be_downloaded():
    with pytest.raises(utils.UserError, match="no model 2M in .*models, which has 1M; 124M, 355M"):
        gpt2.main("hi", model_size="2M")
    with pytest.raises(utils.UserError, match="which has none"):
        gpt2.main("hi", model_size="2M", models_dir="~no-such-user/models")


def test_folder_without_weights_says_in_brief_what_it_has(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(1, 30):
        (folder / f"pytorch_model-{i}-of-29.bin").touch()
    with pytest.raises(utils.UserError, match="; it has pytorch_model-1-of-29.bin, ") as raised:
        gpt2.main("hi", model_size="mine", models_dir=tmp_path)
    assert str(raised.value).startswith(f"{folder} has neither model.safetensors in one piece nor ")
    assert len(str(raised.value)) < len(str(folder)) + 300


def test_prompt_that_is_not_utf8_is_refused_from_both_sources():
    assert "UTF-8\n" in one_line(finish("gpt2.py", b"caf\xe9", *SHORT))
    line = one_line(finish("gpt2.py", "-", *SHORT, shell='printf "caf\\351" | "$@"'))
    assert "UTF-8\n" in line


def test_locale_that_is_not_utf8(monkeypatch):
    for name, value in {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    assert "PYTHONUTF8=1" in one_line(finish("gpt2.py", "caf\u00e9".encode(), *SHORT))
    assert finish("gpt2.py", "-", *SHORT, text=MARKDOWN) == (text(MARKDOWN) + "\n", "", 0)


def test_python_3_10_is_told_before_anything_is_imported():
    code = "import sys; sys.version_info = (3, 10, 13); import gpt2"
    assert finish("-S", "-c", code) == ("", "Python 3.11 or newer is needed\n", 1)  # -S: no NumPy


def test_bug_keeps_its_traceback(tmp_path):
    copy_program(tmp_path)
    code = (tmp_path / "gpt2.py").read_text("utf-8")
    code = code.replace("reshape(n_seq, n_embd)", "reshape(n_embd, n_seq)")  # in mha
    (tmp_path / "gpt2.py").write_text(code, "utf-8")
    out, err, status = finish(tmp_path / "gpt2.py", "hi", *SHORT, f"--models_dir={ROOT}/models")
    assert (out, status) == ("", 1)
    assert err.startswith("Traceback") and "ValueError: matmul" in err


# ---- Ctrl-C


@BOTH
def test_ctrl_c_while_tokens_are_generated(module, tmp_path):
    tensors = tiny_gpt2(n_ctx=100_000)
    write_model(tmp_path / "tiny", tensors, n_positions=100_000)
    args = ["--model_size=tiny", f"--models_dir={tmp_path}", "--n_tokens_to_generate=90000"]
    ours, its = open_terminal()
    with start(program(module), "hi", *args, stderr=its) as process:
        os.close(its)
        shown(ours, until=rb" [1-9]\d*/90000 ")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in shown(ours)
        assert (process.stdout.read(), process.wait()) == ("", 130)


@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_ctrl_c_while_files_are_read(name, tmp_path):
    folder = write_model(tmp_path / "slow")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    args = ["--model_size=slow", f"--models_dir={tmp_path}"]
    with start("gpt2.py", "hi", *args) as process, open(folder / name, "wb"):
        process.send_signal(signal.SIGINT)  # since it has opened the other end, and waits
        assert (*process.communicate(), process.returncode) == ("", "", 130)


@pytest.mark.parametrize("file, imported, status", [
    ("gpt2.py", "numpy", -signal.SIGINT), ("gpt2_kvcache.py", "numpy", -signal.SIGINT),
    ("gpt2.py", "fire", 130)])
def test_ctrl_c_while_modules_are_imported(file, imported, status, tmp_path, monkeypatch):
    code = "import signal; signal.raise_signal(signal.SIGINT)"
    (tmp_path / f"{imported}.py").write_text(code, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert finish(file, "hi", *SHORT) == ("", "", status)


def test_ctrl_c_stays_as_it_is_for_a_program_that_imports_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "import gpt2, signal; print(signal.getsignal(signal.SIGINT).__name__)"
    (tmp_path / "mine.py").write_text(code, "utf-8")
    assert finish(tmp_path / "mine.py") == ("default_int_handler\n", "", 0)


# ---- standard output and standard error as they may be


@pytest.mark.parametrize("args", [["hi", *SHORT], ["-h"]])
def test_broken_pipe(args):
    ours, its = os.pipe()
    os.close(ours)
    assert finish("gpt2.py", *args, stdout=its) == (None, "", 141)
    os.close(its)


def test_reader_of_the_first_byte_gets_it():
    assert finish("gpt2.py", "hi", *SHORT, shell='"$@" | head -c 1') == (text("hi")[0], "", 0)


def test_full_disk_is_one_line():
    assert "space" in one_line(finish("gpt2.py", "hi", *SHORT, shell='exec "$@" >/dev/full'))


def test_closed_standard_output():
    assert finish("gpt2.py", "hi", *SHORT, shell='exec "$@" >&-') == ("", "", 0)


def test_closed_standard_error():
    assert finish("gpt2.py", "hi", *SHORT, shell='exec "$@" 2>&-') == (text("hi") + "\n", "", 0)
