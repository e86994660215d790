"""Downloads: resumed, checked, tried again, and never a wrong file under a final name."""
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub
from test_cli import open_terminal, shown

import utils

ROOT = Path(__file__).parent.parent
WEIGHTS, PART = "model.safetensors", "model.safetensors.part"
FILES = {name: (ROOT / "tests/fixtures/gpt2-vocab" / name).read_bytes()
         for name in utils.VOCABULARY}
DATA = FILES[WEIGHTS] = FILES["vocab.json"][:400_000]  # so what is downloaded is no model
SHA256 = hashlib.sha256(DATA).hexdigest()
PROGRAM = """import pathlib, utils
utils.run(lambda prompt, *, n_tokens_to_generate=1:
          utils._download_model("355M", pathlib.Path(prompt)))"""


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """A hub that has FILES and stands for the real one, and half a minute for the test."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("goes on for ever"))
    signal.alarm(30)
    monkeypatch.setattr(utils, "WAIT", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub(FILES) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
    signal.alarm(0)


def download(folder):
    utils._download_model("355M", folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert json.loads(found.pop("config.json")) and found == FILES


def refused(folder, words, model_size="355M"):
    with pytest.raises(OSError, match=words):
        utils._download_model(model_size, folder)


@pytest.mark.parametrize("endpoint, authorization", [
    ("http://", None), ("http://user:secret@", "Basic dXNlcjpzZWNyZXQ=")])
@pytest.mark.parametrize("end", ["", "/mirror/"])
def test_pinned_revision(hub, tmp_path, endpoint, authorization, end, monkeypatch):
    hub.authorization = authorization
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", endpoint) + end)
    download(tmp_path)
    base = "/openai-community/gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da/"
    assert hub.paths == [end.rstrip("/") + base + name for name in FILES]


@pytest.mark.parametrize("model_size, n_layer, n_head", [
    ("124M", 12, 12), ("355M", 24, 16), ("774M", 36, 20), ("1558M", 48, 25)])
def test_config_is_written(hub, tmp_path, model_size, n_layer, n_head):
    hub.files.clear()
    refused(tmp_path, "404", model_size)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config | {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257,
        "n_positions": 1024, "n_embd": 64 * n_head, "n_layer": n_layer, "n_head": n_head,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5} == config


def test_nothing_is_asked_again(hub, tmp_path):
    shutil.copytree(ROOT / "models/1M", tmp_path / "355M")
    utils.load_encoder_hparams_and_params("355M", tmp_path)
    assert hub.paths == []


def test_a_bar_for_each_file(tmp_path, monkeypatch):
    (tmp_path / PART).write_bytes(DATA[:200_000])
    ours, its = open_terminal()
    with open(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        download(tmp_path)
    page = shown(ours)
    assert all(f"{name}: " in page for name in FILES)
    assert f"{WEIGHTS}:  50%" in page and f"{WEIGHTS}:   0%" not in page


@pytest.mark.parametrize("n_had", [1000, len(DATA)])
def test_only_the_rest_is_sent(hub, tmp_path, n_had):
    (tmp_path / PART).write_bytes(DATA[:n_had])
    download(tmp_path)
    assert hub.requests[WEIGHTS] == [f"bytes={n_had}-"] and hub.sent[WEIGHTS] == len(DATA) - n_had


@pytest.mark.parametrize("fault", [
    "reset", "torn", "short", "stall", "hold", 429, 500, 503, "whole", "gzip", "whole gzip"])
def test_downloads_in_spite_of(hub, tmp_path, fault, monkeypatch):  # 429: Retry-After is an hour
    monkeypatch.setattr(utils, "TIMEOUT", (5, 0.3))
    (tmp_path / PART).write_bytes(DATA[:1000])
    hub.faults = {"merges.txt": [fault], WEIGHTS: [fault]}
    download(tmp_path)


@pytest.mark.parametrize("data", [b"of another file", b"too long" * 99_999])
def test_wrong_part_is_removed(tmp_path, data):
    (tmp_path / PART).write_bytes(data)
    refused(tmp_path, "sha256.*try again")
    download(tmp_path)


@pytest.mark.parametrize("fault", [204, 302, 404, 500, "shifted", "unranged"])
def test_adds_nothing_to_the_part(hub, tmp_path, fault):
    (tmp_path / PART).write_bytes(DATA[:1000])
    hub.faults = {WEIGHTS: [fault] * 99}
    refused(tmp_path, str(fault) if isinstance(fault, int) else "206")
    assert (tmp_path / PART).read_bytes() == DATA[:1000]


@pytest.mark.parametrize("etag", [f'W/"{SHA256}"', f'"{SHA256.upper()}"'])
def test_declared_sha256(hub, tmp_path, etag):
    hub.declared = {"X-Linked-Etag": etag}
    download(tmp_path)


@pytest.mark.parametrize("etag, words", [
    (None, "this hub declares no sha256"), ("a" * 40, "this hub declares no sha256"),
    ("0" * 64, f"its sha256 is {SHA256}")])
def test_refuses_what_no_sha256_vouches_for(hub, tmp_path, etag, words):
    hub.declared = {"X-Linked-Etag": etag} if etag else {}
    refused(tmp_path, words)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("model_size, name", [
    ("124M", WEIGHTS), ("1558M", WEIGHTS), *(("355M", name) for name in utils.VOCABULARY)])
def test_pinned_sha256_wins(hub, tmp_path, model_size, name):
    hub.files[name] = b"{}"
    refused(tmp_path, utils.VOCABULARY.get(name) or utils.PUBLISHED[model_size][3], model_size)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["config.json", *utils.VOCABULARY])
def test_says_which_file_is_missing(tmp_path, name):
    folder = shutil.copytree(ROOT / "models/1M", tmp_path / "355M")
    (folder / name).unlink()
    with pytest.raises(OSError, match=f"{name} is missing; remove {folder} to have it downloaded"):
        utils.load_encoder_hparams_and_params("355M", tmp_path)


def test_resumes_where_it_broke_off(hub, tmp_path):
    hub.faults = {WEIGHTS: ["short"]}
    download(tmp_path)
    first, second = hub.requests[WEIGHTS]
    assert first == "bytes=0-" and 196608 <= int(second[6:-1]) <= 200_000  # a block of 64 KiB less


@pytest.mark.parametrize("fault", ["reset", 503, "whole short"])
def test_gives_up_after_a_handful_of_tries(hub, tmp_path, fault):
    hub.faults = {WEIGHTS: [fault] * 99}
    refused(tmp_path, WEIGHTS)
    assert len(hub.requests[WEIGHTS]) - utils.TRIES in (0, 1)  # 1: half a file was progress


@pytest.mark.parametrize("beside", [f"{WEIGHTS}.part", ".DS_Store"])
def test_loading_goes_on_with_an_unfinished_download(hub, tmp_path, beside):
    (tmp_path / "355M").mkdir()
    (tmp_path / "355M" / beside).write_bytes(DATA[:9])
    with pytest.raises(utils.UserError, match=WEIGHTS):  # what comes is no model
        utils.load_encoder_hparams_and_params("355M", tmp_path)
    assert hub.requests[WEIGHTS] and (tmp_path / "355M" / WEIGHTS).read_bytes() == DATA


def test_progress_resets_the_tries(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "TRIES", 2)
    hub.faults = {WEIGHTS: [500, "short", 500, "short", 500]}
    download(tmp_path)


def test_failure_names_the_address_and_hides_its_password(hub, tmp_path, monkeypatch):
    hub.files.clear()
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("//", "//user:secret@"))
    address = hub.url.removeprefix("http://")
    refused(tmp_path, f"^(?!.*secret).*{address}/openai-community/.*--model_size 1M")


def start(*args, before=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)):
    return subprocess.Popen([sys.executable, *args], cwd=ROOT, encoding="utf-8", preexec_fn=before,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_command_line_downloads_the_model(tmp_path):
    with start("gpt2.py", "hi", "--model_size=355M", f"--models_dir={tmp_path}") as process:
        assert f"355M/{WEIGHTS}: damaged" in process.stderr.readline()  # and there is no bar
        assert (*process.communicate(), process.returncode) == ("", "", 1)
    assert {*os.listdir(tmp_path / "355M")} == {"config.json", *FILES}


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_killed_in_mid_download_loses_nothing(hub, tmp_path, number, status):
    hub.faults = {WEIGHTS: ["hold"]}
    with start("-c", PROGRAM, tmp_path) as process:
        while not ((tmp_path / PART).exists() and (tmp_path / PART).stat().st_size >= 196608):
            assert process.poll() is None
        process.send_signal(number)
        assert (*process.communicate(), process.returncode) == ("", "", status)
    size = (tmp_path / PART).stat().st_size
    download(tmp_path)
    assert hub.requests[WEIGHTS] == ["bytes=0-", f"bytes={size}-"]


def test_full_disk_loses_nothing(hub, tmp_path):
    limit = (resource.RLIMIT_FSIZE, (600_000, 600_000))
    with start("-c", PROGRAM, tmp_path, before=lambda: resource.setrlimit(*limit)) as process:
        assert "vocab.json" in process.stderr.readline()
        assert (*process.communicate(), process.returncode) == ("", "", 1)
    download(tmp_path)
    assert hub.requests["vocab.json"] == ["bytes=0-", "bytes=600000-"]


def test_second_process_waits_for_the_first(hub, tmp_path):
    hub.faults = {WEIGHTS: ["hold"]}
    with start("-c", PROGRAM, tmp_path) as first:
        assert hub.half_sent.wait(20)
        with start("-c", PROGRAM, tmp_path) as second:
            assert "waiting for another process" in second.stderr.readline()
            hub.release.set()
            assert second.communicate() == first.communicate() == ("None\n", "")
    assert all(len(asked) == 1 for asked in hub.requests.values())


def test_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: os.close(-1))  # raises an OSError
    download(tmp_path)
