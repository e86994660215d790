"""Downloads: resumed, verified, retried, and never a wrong file under a final name."""
import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from checkpoints import tiny_gpt2, write_config, write_safetensors
from hub import Hub

import utils

ROOT = Path(__file__).parent.parent
VOCAB = ROOT / "tests/gpt2-vocab"
HPARAMS = {"n_vocab": 50257, "n_ctx": 8, "n_embd": 2, "n_head": 1, "n_layer": 1}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The four files of a tiny model with GPT-2's vocabulary, as the hub has them."""
    folder = tmp_path_factory.mktemp("published")
    write_config(folder / "config.json", vocab_size=50257, n_positions=8, n_embd=2, n_head=1,
                 n_layer=1)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(**HPARAMS))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((VOCAB / name).read_bytes())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(utils, "BACKOFF", 0)
    monkeypatch.setattr(utils, "TIMEOUT", (5, 5))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def load(hub, models_dir, model_size="355M"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        return utils.load_encoder_hparams_and_params(model_size, str(models_dir))


def in_folder(models_dir, model_size="355M"):
    folder = models_dir / model_size
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def part(models_dir, data, name=WEIGHTS):
    (models_dir / "355M").mkdir(exist_ok=True)
    (models_dir / "355M" / f"{name}.part").write_bytes(data)


def ranges(hub):
    return [range_ for name, range_ in hub.requests if name == WEIGHTS]


PROGRAM = """
import sys, utils, gpt2_kvcache
utils.BACKOFF = 0
utils.run(gpt2_kvcache.main)
"""


def start(hub, models_dir, before="", **kwargs):
    """The command line in a process of its own, with quick retries."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "OPENBLAS_NUM_THREADS": "1"}
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
    return subprocess.Popen([sys.executable, "-c", before + PROGRAM, "hi", "2", "355M", models_dir],
                            cwd=ROOT, env=env, encoding="utf-8", **kwargs)


def finish(process):
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line and "generating:" not in line]
    return process.returncode, out, lines


def test_a_fresh_download_comes_from_the_pinned_revision_and_is_whole(files, tmp_path):
    with Hub(files) as hub:
        encoder, hparams, params = load(hub, tmp_path)
    base = "/openai-community/gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da/"
    assert sorted(hub.paths) == sorted(base + name for name in files)
    assert in_folder(tmp_path) == files
    assert hparams == HPARAMS and params["wte"].shape == (50257, 2)


def test_what_is_there_is_not_asked_for_again(files, tmp_path):
    with Hub(files) as hub:
        load(hub, tmp_path)
        hub.paths.clear()
        load(hub, tmp_path)
    assert hub.paths == []


def test_an_endpoint_may_end_with_a_slash(files, tmp_path):
    with Hub(files) as hub:
        hub.url += "/"
        load(hub, tmp_path)
    assert all(path.startswith("/openai-community/") for path in hub.paths)


class TestResume:
    def test_only_the_rest_is_sent(self, files, tmp_path):
        part(tmp_path, files[WEIGHTS][:1000])
        with Hub(files) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert ranges(hub) == ["bytes=1000-"]
        assert hub.sent[WEIGHTS] == len(files[WEIGHTS]) - 1000

    def test_a_server_that_ignores_range(self, files, tmp_path):
        part(tmp_path, files[WEIGHTS][:1000])
        with Hub(files, {WEIGHTS: ["ignore range"]}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert len(ranges(hub)) == 1

    def test_a_complete_part_is_not_sent_again(self, files, tmp_path):
        part(tmp_path, files[WEIGHTS])
        with Hub(files) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert hub.sent[WEIGHTS] == 0

    @pytest.mark.parametrize("data", [b"too long" * 99999, b"of another file"])
    def test_a_wrong_part_is_replaced(self, files, tmp_path, data):
        part(tmp_path, data)
        with Hub(files) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files

    def test_a_part_that_nothing_can_vouch_for_is_not_built_on(self, files, tmp_path):
        part(tmp_path, b"{", name="config.json")
        part(tmp_path, b"stale")
        with Hub(files, declared={}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files


class TestVerify:
    def test_declared_sha256_that_differs_is_an_error_and_removes_the_file(self, files, tmp_path):
        with Hub(files, declared={"X-Linked-Etag": f'"{"0" * 64}"'}) as hub, \
                pytest.raises(OSError, match="sha256"):
            load(hub, tmp_path)
        assert WEIGHTS not in in_folder(tmp_path) and f"{WEIGHTS}.part" not in in_folder(tmp_path)

    def test_the_pinned_sha256_wins_over_what_a_mirror_declares(self, files, tmp_path):
        sha256 = hashlib.sha256(files[WEIGHTS]).hexdigest()
        with Hub(files, declared={"X-Linked-Etag": f'"{sha256}"'}) as hub, \
                pytest.raises(OSError, match=utils.SHA256[f"124M/{WEIGHTS}"]):
            load(hub, tmp_path, "124M")
        assert WEIGHTS not in in_folder(tmp_path, "124M")

    def test_a_changed_vocabulary_is_refused(self, files, tmp_path):
        with Hub({**files, "vocab.json": b'{"a": 0}'}) as hub, \
                pytest.raises(OSError, match=r"vocab\.json.*sha256"):
            load(hub, tmp_path)
        assert "vocab.json" not in in_folder(tmp_path)

    def test_a_git_sha1_is_no_sha256(self, files, tmp_path):
        with Hub(files, declared={"X-Linked-Etag": '"' + "a" * 40 + '"'}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files

    def test_a_size_that_differs_from_the_declared_one_is_never_accepted(self, files, tmp_path):
        size = str(len(files[WEIGHTS]) + 1)
        with Hub(files, declared={"X-Linked-Size": size, "X-Linked-Etag": "none"}) as hub, \
                pytest.raises(OSError):
            load(hub, tmp_path)
        assert WEIGHTS not in in_folder(tmp_path)

    def test_a_log_in_page_is_no_config(self, files, tmp_path):
        with Hub({**files, "config.json": b"<html>log in</html>"}) as hub, \
                pytest.raises(ValueError, match=r"config\.json"):
            load(hub, tmp_path)
        assert "config.json" not in in_folder(tmp_path)


class TestRetry:
    @pytest.mark.parametrize("fault", ["reset", 429, 500, 502, 503, 504])
    def test_a_passing_fault(self, files, tmp_path, fault):
        with Hub(files, {"vocab.json": [fault], WEIGHTS: [fault, fault]}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert len(ranges(hub)) == 3

    @pytest.mark.parametrize("fault", ["short", "reset half"])
    def test_a_body_that_ends_early_goes_on_from_there(self, files, tmp_path, fault):
        with Hub(files, {WEIGHTS: [fault, fault], "config.json": [fault]}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert ranges(hub)[0] is None and all(ranges(hub)[1:])  # all but the last block was kept

    @pytest.mark.parametrize("name", ["merges.txt", WEIGHTS])
    def test_a_server_that_stalls_runs_into_the_time_out(self, files, tmp_path, name, monkeypatch):
        monkeypatch.setattr(utils, "TIMEOUT", (0.2, 0.2))
        with Hub(files, {name: ["stall", "stall"]}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files

    def test_a_body_that_stalls_goes_on_from_there(self, files, tmp_path, monkeypatch):
        monkeypatch.setattr(utils, "TIMEOUT", (0.2, 0.2))
        with Hub(files, {WEIGHTS: ["hold"]}) as hub:
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        first, second = ranges(hub)
        assert first is None and second

    @pytest.mark.parametrize("fault", ["reset", 503, "short"])
    def test_gives_up_after_a_few_times_and_says_where(self, files, tmp_path, fault):
        with Hub(files, {WEIGHTS: [fault] * 99}) as hub, \
                pytest.raises(OSError, match=r"355M/model\.safetensors|http://127"):
            load(hub, tmp_path)
        assert 3 <= len(ranges(hub)) <= 10
        assert WEIGHTS not in in_folder(tmp_path)

    @pytest.mark.parametrize("status", [401, 404])
    def test_what_will_not_pass_is_an_error_at_once(self, files, tmp_path, status):
        with Hub(files, {WEIGHTS: [status] * 9}) as hub, \
                pytest.raises(OSError, match=rf"http://127.*{WEIGHTS}.*{status}"):
            load(hub, tmp_path)
        assert len(ranges(hub)) == 1

    def test_retry_after_is_honoured_before_our_own_backoff(self, files, tmp_path, monkeypatch):
        monkeypatch.setattr(utils, "BACKOFF", 3600)
        previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits on its own account"))
        signal.alarm(20)
        try:
            with Hub(files, {"merges.txt": [429, 429]}) as hub:
                hub.retry_after = "1"
                load(hub, tmp_path)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        assert in_folder(tmp_path) == files


class TestProcesses:
    def test_the_command_line_downloads_and_runs(self, files, tmp_path):
        with Hub(files) as hub:
            status, out, lines = finish(start(hub, tmp_path))
        assert (status, lines) == (0, []) and out  # no bars: standard error is not a terminal
        assert in_folder(tmp_path) == files

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_killed_in_mid_download_the_next_run_goes_on(self, files, tmp_path, number):
        with Hub(files, {WEIGHTS: ["hold"]}) as hub:
            process = start(hub, tmp_path)
            weights = tmp_path / "355M" / f"{WEIGHTS}.part"
            while not (weights.exists() and weights.stat().st_size):
                assert process.poll() is None
            process.send_signal(number)
            status, _, lines = finish(process)
            assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
            assert lines == [] and WEIGHTS not in in_folder(tmp_path)
            hub.release.set()
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files
        assert ranges(hub)[1]

    def test_two_at_once_end_with_right_files(self, files, tmp_path):
        with Hub(files, {WEIGHTS: ["hold"]}) as hub:
            first = start(hub, tmp_path)
            assert hub.half_sent.wait(30)
            status, _, lines = finish(start(hub, tmp_path))
            assert status == 1 and len(lines) == 1 and "another process" in lines[0]
            hub.faults[WEIGHTS] = []
            hub.release.set()
            status, out, lines = finish(first)
        assert (status, lines) == (0, []) and out
        assert in_folder(tmp_path) == files

    def test_a_full_disk_is_one_line_and_the_next_run_completes(self, files, tmp_path):
        limit = ("import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
                 "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))")
        with Hub(files) as hub:
            status, _, lines = finish(start(hub, tmp_path, limit))
            assert status == 1 and len(lines) == 1 and "vocab.json" in lines[0]
            assert "vocab.json" not in in_folder(tmp_path)
            load(hub, tmp_path)
        assert in_folder(tmp_path) == files

    def test_a_folder_that_cannot_be_made_is_one_line(self, files, tmp_path):
        (tmp_path / "355M").write_text("a file")
        with Hub(files) as hub:
            status, _, lines = finish(start(hub, tmp_path))
        assert status == 1 and len(lines) == 1 and "355M" in lines[0]

    def test_a_bar_for_each_file_starts_where_the_resume_starts(self, files, tmp_path):
        half = len(files[WEIGHTS]) // 2
        part(tmp_path, files[WEIGHTS][:half])
        terminal, stderr = pty.openpty()
        termios.tcsetwinsize(stderr, (24, 100))
        with Hub(files) as hub:
            process = start(hub, tmp_path, stderr=stderr)
            os.close(stderr)
            shown = b""
            while True:
                try:
                    shown += os.read(terminal, 1 << 16)
                except OSError:  # its other end is closed
                    break
            process.communicate()
        shown = shown.decode()
        for name in files:
            assert re.search(rf"{re.escape(name)}: +\d+%.*B/s", shown)
        assert re.search(rf"{re.escape(WEIGHTS)}: +50%", shown)
        assert not re.search(rf"{re.escape(WEIGHTS)}: +0%", shown)

