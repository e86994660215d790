"""The command line: what it prints, what it takes as text, what it refuses, how it ends."""
import ast
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from checkpoints import TF_CHECKPOINT, pack, shapes, tiny_gpt2, write_config, write_model
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


def text(prompt, module=gpt2_kvcache, **options):
    return "".join(module.main(prompt, n_tokens_to_generate=12, **{"model_size": "1M"} | options))


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


@pytest.mark.parametrize("newline", ["", "\n"])
def test_hyphen_stands_for_standard_input_but_for_one_newline_at_its_end(newline):
    assert finish("gpt2.py", "-", *SHORT, text=MARKDOWN + newline) == (
        text(MARKDOWN if newline else MARKDOWN[:-1]) + "\n", "", 0)


@BOTH
def test_main_continues_the_ids_of_its_prompt_and_prints_nothing(module, model, capfd):
    returned = "".join(module.main(MARKDOWN, n_tokens_to_generate=np.int64(12), model_size="1M"))
    ids = list(gpt2.generate(MARKDOWN_IDS, model.params, model.n_head, 12))
    assert (returned, *capfd.readouterr()) == (model.encoder.decode(ids), "", "")


@pytest.fixture
def speaker(tmp_path):
    """Makes a model in tmp_path that says a text, whatever it is asked, and arguments for that.

    Its layer adds nothing, its positions decide.
    """
    def speaker(text):
        ids = Encoder(TF_CHECKPOINT).encode(text)
        n_ctx = 1 + len(ids)
        tensors = tiny_gpt2(n_ctx=n_ctx, n_embd=280, n_layer=1)
        for _, array in tensors.values():
            array[:] = 0
        tensors["ln_f.weight"][1][:] = 1
        tensors["wte.weight"][1][:] = np.eye(280)
        tensors["wpe.weight"][1][:-1] = 2 * np.eye(280)[ids]
        write_model(tmp_path / "speaker", tensors, n_positions=n_ctx, n_embd=280, n_layer=1)
        return {"n_tokens_to_generate": len(ids), "model_size": "speaker", "models_dir": tmp_path}

    return speaker


@BOTH
def test_letters_of_several_tokens_come_out_whole(module, speaker):
    pieces = list(module.main("x", **speaker(MARKDOWN)))
    assert "".join(pieces) == MARKDOWN
    assert "\u6c49" in pieces and "\U0001f600" in pieces


def test_terminal_that_is_not_utf8_shows_question_marks(speaker, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    options = [f"--{name}={value}" for name, value in speaker("\u00e9 \u6f22").items()]
    assert finish("gpt2.py", "x", *options) == ("? ?\n", "", 0)


@BOTH
def test_empty_prompt_begins_a_document(module):
    assert text("", module) == text("<|endoftext|>")


def copy_program(folder):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)


def test_defaults_are_40_tokens_of_124m_beside_the_file(tmp_path):
    copy_program(tmp_path)
    shutil.copytree(ROOT / "models/1M", tmp_path / "models/124M")
    expected = "".join(gpt2.main("The king", n_tokens_to_generate=40, model_size="1M")) + "\n"
    assert finish(tmp_path / "gpt2.py", "The king") == (expected, "", 0)
    from_python = "import gpt2_kvcache; print(''.join(gpt2_kvcache.main('The king')))"
    assert finish("-c", from_python, cwd=tmp_path) == (expected, "", 0)


@pytest.mark.parametrize("models_dir", ["mine", "~/hers"])
def test_models_dir(models_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    os.mkdir("home")
    for link in ("mine", "home/hers"):
        os.symlink(ROOT / "models", link)
    assert text("hi", models_dir=models_dir) == text("hi")


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
        return [repr((prompt, n_tokens_to_generate, model_size, models_dir))]

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


@pytest.mark.parametrize("prompt", ["--once", "-h", "-x marks", "--model_size=1M", "-", "a=b", ""])
def test_prompt_after_two_hyphens(understood, monkeypatch, prompt):
    monkeypatch.setattr(utils, "read_standard_input", lambda: "-")
    assert understood("--model_size", "2M", "--", prompt) == (prompt, 40, "2M", None)
    assert understood(f"--prompt={prompt}") == (prompt, 40, "124M", None)


@pytest.mark.parametrize("args", [
    ["--n_tokens_to_generate", "3", "--model_size", "1984", "hi", "--models_dir", "True"],
    ["hi", "--n-tokens-to-generate", "3", "--model-size=1984", "--models-dir=True"]])
def test_options_with_hyphens_or_an_equals_sign(understood, args):
    assert understood(*args) == ("hi", 3, "1984", "True")


@pytest.mark.parametrize("n", ["0", "-1", "1.5", "abc", "1e3", ""])
def test_rejects_invalid_n_tokens(understood, n):
    assert f"from 1 up, not '{n}'" in understood("hi", "--n_tokens_to_generate", n)


def test_a_number_may_be_large(understood):
    assert understood("hi", "--n_tokens_to_generate", "99999999999")[1] == 99999999999


@pytest.mark.parametrize("n", ["0", "3"])
def test_an_option_whose_default_is_0_may_be_0(n):
    def main(prompt, *, n_random=0):
        pass

    assert utils.parse(main, ["hi", "--n_random", n]) == {"prompt": "hi", "n_random": int(n)}
    with pytest.raises(utils.UserError, match="n_random is a whole number from 0 up, not '-1'"):
        utils.parse(main, ["hi", "--n_random", "-1"])


@pytest.mark.parametrize("args, said", [
    ([], "'prompt'"), (["Hello", "there"], "too many"), (["a", "--prompt=b"], "'prompt'"),
    (["--model_siez", "1M", "hi"], "'model_siez'"), (["--n", "5", "hi"], "'n'"),
    (["hi", "-m"], "'m'"), (["-like this"], "'prompt'")])
def test_lists_the_options_and_asks_for_one_prompt(understood, args, said):
    line = understood(*args)
    assert said in line.split(";")[0] and OPTIONS in line
    assert "one prompt, in quotes" in line and "-- if it begins with a hyphen" in line
    assert "only - to read standard input" in line


# ---- refusals


def test_refusal_is_one_line_and_makes_no_file(tmp_path):
    line = one_line(finish("gpt2.py", "hi", "--model_size=a\nb", "--models_dir", tmp_path))
    assert line.startswith("gpt2.py: no folder a b in ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("model_size, models_dir, said", [
    ("models/1M", None, "models/1M in .*models, which has 1M; 124M, 355M"),
    ("1M", "~no-such-user/models", "there is no folder ~no-such-user/models")])
def test_unknown_model_says_what_there_is(model_size, models_dir, said):
    with pytest.raises(utils.UserError, match=said):
        gpt2.main("hi", model_size=model_size, models_dir=models_dir)


def test_prompt_that_is_not_utf8_is_refused_from_both_sources():
    assert "UTF-8" in one_line(finish("gpt2.py", b"caf\xe9", *SHORT))
    line = one_line(finish("gpt2.py", "-", *SHORT, shell='printf "caf\\351" | "$@"'))
    assert "UTF-8" in line


def test_too_little_memory_is_one_line(tmp_path):
    hparams = {"n_vocab": 280, "n_ctx": 500_000, "n_embd": 8192, "n_layer": 0}
    header, end = {}, 0
    for name, shape in shapes(**hparams).items():
        n_bytes = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    folder = write_model(tmp_path / "large")
    write_config(folder / "config.json", n_embd=8192, n_positions=500_000)
    (folder / "model.safetensors").write_bytes(pack(header, b""))
    n_header = (folder / "model.safetensors").stat().st_size
    os.truncate(folder / "model.safetensors", n_header + end)  # 16 GB, of which none is stored
    line = one_line(finish("gpt2.py", "hi", "--model_size=large", "--models_dir", tmp_path,
                           shell='ulimit -v 8000000; exec "$@"'))
    assert line.startswith("gpt2.py: not enough memory")


def test_older_python_is_told(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        utils.run(gpt2.main)


def test_bug_keeps_its_traceback(tmp_path):
    copy_program(tmp_path)
    code = (tmp_path / "gpt2.py").read_text("utf-8")
    code = code.replace("reshape(n_seq, n_embd)", "reshape(n_embd, n_seq)")  # in mha
    (tmp_path / "gpt2.py").write_text(code, "utf-8")
    out, err, status = finish(tmp_path / "gpt2.py", "hi", *SHORT, f"--models_dir={ROOT}/models")
    assert status == 1 and "Traceback" in err and "ValueError: matmul" in err


# ---- Ctrl-C, and standard output as it may be


@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_ctrl_c_while_files_are_read(name, tmp_path):
    folder = write_model(tmp_path / "slow")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    args = ["--model_size=slow", f"--models_dir={tmp_path}"]
    with start("gpt2.py", "hi", *args) as process, open(folder / name, "wb"):
        process.send_signal(signal.SIGINT)  # since it has opened the other end, and waits
        assert (*process.communicate(), process.returncode) == ("", "", 130)


def test_a_script_beside_the_model_that_imports_it_handles_ctrl_c_itself(tmp_path):
    copy_program(tmp_path)
    (tmp_path / "mine.py").write_text("""
import os, signal, sys
before = dict(os.environ), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
import gpt2, gpt2_kvcache
assert before == (dict(os.environ), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM))
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("mine")
finally:
    print("at last")
""", "utf-8")
    assert finish(tmp_path / "mine.py") == ("mine\nat last\n", "", 0)


def test_import_in_a_thread():
    code = """
import threading
thread = threading.Thread(target=__import__, args=["gpt2_kvcache"])
thread.start()
thread.join()
"""
    assert finish("-c", code) == ("", "", 0)


@pytest.mark.parametrize("args", [["hi", *SHORT], ["-h"]])
def test_broken_pipe(args):
    ours, its = os.pipe()
    os.close(ours)
    assert finish("gpt2.py", *args, stdout=its) == (None, "", 141)
    os.close(its)


def test_reader_of_the_first_byte_gets_it():
    assert finish("gpt2.py", "hi", *SHORT, shell='"$@" | head -c 1') == (text("hi")[0], "", 0)
