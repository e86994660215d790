"""Downloads: pinned, checked, resumed, and nothing is fetched that is already there."""
import fcntl
import hashlib
import os
import re
import shutil
import signal
import sys

import pytest
from hub import Hub
from terminal import ROOT, finish, open_terminal, sealed_off, shown, start

import gpt2_kvcache
import utils

# What models/1M consists of stands in for what is published, but where a test says otherwise.
FIXTURES = ROOT / "tests/fixtures"
NAMES = ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
FILES = {name: (ROOT / "models/1M" / name).read_bytes() for name in NAMES}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
WEIGHTS = "model.safetensors"
PART = "model.safetensors.part"
TEXT = gpt2_kvcache.main("The king", n_tokens_to_generate=3, model_size="1M")

REVISIONS = {
    "124M": "gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "355M": "gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "774M": "gpt2-large/resolve/32b71b12589c2f8d625668d2335a01cac3249519",
    "1558M": "gpt2-xl/resolve/15ea56dee5df4983c59b2538573817e1667135e2",
}
PLACE = f"/openai-community/{REVISIONS['124M']}/"

# gpt2_kvcache.py, to which the stand-ins are what is published.
PROGRAM = f"""
import gpt2_kvcache
import utils
sha256 = {SHA256}
for known in (utils.PUBLISHED["124M"], utils.VOCABULARY):
    for name in known.keys() & sha256.keys():
        known[name] = sha256[name]
utils.run(gpt2_kvcache.main)
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has FILES."""
    with Hub(FILES) as hub, sealed_off(monkeypatch, tmp_path / "cache", hub.url):
        yield hub


@pytest.fixture
def models_dir(hub, monkeypatch, tmp_path):
    """A folder for models, and FILES are what is published."""
    for known in (utils.PUBLISHED["124M"], utils.VOCABULARY):
        for name in known.keys() & SHA256.keys():
            monkeypatch.setitem(known, name, SHA256[name])
    (tmp_path / "models/124M").mkdir(parents=True)
    return tmp_path / "models"


def assert_runs(models_dir):
    """124M runs as it should, once what is missing has been downloaded."""
    assert gpt2_kvcache.main("The king", n_tokens_to_generate=3, models_dir=models_dir) == TEXT


def assert_downloads(models_dir):
    """All four files are there in the end, and nothing else."""
    assert_runs(models_dir)
    assert {path.name: path.read_bytes() for path in (models_dir / "124M").iterdir()} == FILES


def refusal(models_dir, model_size="124M"):
    """The line that ends it."""
    with pytest.raises(OSError) as raised:
        gpt2_kvcache.main("The king", model_size=model_size, models_dir=models_dir)
    return str(raised.value)


def program(models_dir):
    """The arguments for a process that does the same."""
    return ["-c", PROGRAM, "The king", "--n_tokens_to_generate=3", f"--models_dir={models_dir}"]


# ---- what is published


@pytest.mark.parametrize("model_size, size, shape, sha256", [
    ("124M", "548 MB", [768, 12, 12],
     "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    ("355M", "1.5 GB", [1024, 16, 24],
     "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd"),
    ("774M", "3.2 GB", [1280, 20, 36],
     "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
    ("1558M", "6.4 GB", [1600, 25, 48],
     "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a")])
def test_four_files_are_asked_for_and_are_the_published_ones(hub, tmp_path, capfd, model_size, size,
                                                             shape, sha256):
    """All but the weights are served here as they are published, so only these are refused."""
    hub.files["config.json"] = (FIXTURES / f"gpt2-config/{model_size}.json").read_bytes()
    for name in ("vocab.json", "merges.txt"):
        hub.files[name] = (FIXTURES / "gpt2-vocab" / name).read_bytes()

    message = refusal(tmp_path / "new", model_size)
    folder, revision = tmp_path / "new" / model_size, REVISIONS[model_size]
    weights = f"/openai-community/{revision}/{WEIGHTS}"
    assert message == (f"{folder}/{WEIGHTS} from {hub.url}{weights}: its sha256 is "
                       f"{SHA256[WEIGHTS]}, not {sha256}. It was removed: the same command "
                       "downloads it again")
    assert sorted(os.listdir(folder)) == ["config.json", "merges.txt", "vocab.json"]
    assert hub.paths == [f"/openai-community/{revision}/{name}" for name in NAMES]
    assert capfd.readouterr().err == (
        f"downloading config.json, vocab.json, merges.txt, model.safetensors ({size}) of "
        f"openai-community/{revision.split('/')[0]} to {folder}\n")
    assert [*utils.read_hparams(folder / "config.json").values()] == [50257, 1024, *shape]


@pytest.mark.parametrize("endpoint", [None, ""])
def test_hub_is_hugging_face_by_default(monkeypatch, endpoint):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert utils.hub_address() == "https://huggingface.co"


def test_mirror(hub, models_dir, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror/")
    assert_downloads(models_dir)
    assert hub.paths == [f"/mirror{PLACE}{name}" for name in NAMES]


# ---- what is missing is downloaded, and nothing else


def test_command_says_what_it_downloads_prints_the_text_and_does_not_ask_again(hub, models_dir):
    stdout, stderr, status = finish(*program(models_dir))
    assert (stdout, status) == (TEXT + "\n", 0)
    assert re.fullmatch(r"downloading .* \(548 MB\) of openai-community/gpt2 to .*/124M\n", stderr)

    hub.files.clear()
    assert finish(*program(models_dir)) == (TEXT + "\n", "", 0)


@pytest.mark.parametrize("missing", NAMES)
def test_only_the_missing_file_is_downloaded(hub, models_dir, missing, capfd):
    for name in FILES.keys() - {missing}:
        (models_dir / "124M" / name).write_bytes(FILES[name])
    assert_downloads(models_dir)
    assert hub.paths == [PLACE + missing]
    size = "548 MB" if missing == WEIGHTS else "1.5 MB"
    assert f"downloading {missing} ({size}) of " in capfd.readouterr().err


@pytest.mark.parametrize("n_had", [1000, len(FILES[WEIGHTS])])
def test_half_a_download_is_resumed_whatever_else_is_there(hub, models_dir, n_had):
    (models_dir / "124M/notes.txt").touch()
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][:n_had])
    assert_runs(models_dir)
    assert hub.ranges[WEIGHTS] == [f"bytes={n_had}-"]
    assert {*os.listdir(models_dir / "124M")} == {"notes.txt", *NAMES}


def test_tensorflow_checkpoint_is_used_as_it_is(hub, models_dir):
    folder = models_dir / "124M"
    shutil.copytree(FIXTURES / "tf-checkpoint", folder, dirs_exist_ok=True)
    before = os.listdir(folder)
    gpt2_kvcache.main("x", n_tokens_to_generate=3, models_dir=models_dir)
    assert hub.paths == [] and os.listdir(folder) == before


def lay_out_as_hugging_face_does(cache, repository, names):
    """A snapshot of these files: links to blobs that are named by a hash."""
    snapshot = cache / repository / "snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e"
    blobs = cache / repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in names:
        (blobs / SHA256[name]).write_bytes(FILES[name])
        (snapshot / name).symlink_to(f"../../blobs/{SHA256[name]}")


@pytest.mark.parametrize("variable, value, cache", [
    ("HF_HUB_CACHE", "mine", "mine"), ("HF_HOME", "mine", "mine/hub"),
    ("HF_HUB_CACHE", "~/mine", "mine"), ("HOME", ".", ".cache/huggingface/hub")])
@pytest.mark.parametrize("repository", ["models--openai-community--gpt2", "models--gpt2"])
def test_what_hugging_face_has_cached_is_used(hub, models_dir, tmp_path, monkeypatch, variable,
                                              value, cache, repository):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    lay_out_as_hugging_face_does(tmp_path / cache, repository, NAMES)
    assert_runs(models_dir)
    assert hub.paths == [] and os.listdir(models_dir / "124M") == []


@pytest.mark.parametrize("cached, downloaded", [
    ([WEIGHTS], ["config.json", "vocab.json", "merges.txt"]),
    (["config.json", "merges.txt"], ["vocab.json", "merges.txt", WEIGHTS])])
def test_what_a_snapshot_lacks_is_downloaded(hub, models_dir, tmp_path, cached, downloaded):
    lay_out_as_hugging_face_does(tmp_path / "cache", "models--gpt2", cached)
    assert_runs(models_dir)
    assert hub.paths == [PLACE + name for name in downloaded]


# ---- what may go wrong


@pytest.mark.parametrize("fault", ["short", "whole"])
def test_goes_on_where_it_broke_off_as_long_as_each_try_brings_bytes(hub, models_dir, fault):
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][:1000])
    hub.faults = {WEIGHTS: [fault] * 4}
    assert_downloads(models_dir)
    begins = [int(asked[6:-1]) for asked in hub.ranges[WEIGHTS]]
    assert begins[0] == 1000 and begins == sorted(set(begins))
    assert len(begins) == (1 if fault == "whole" else 5)


@pytest.mark.parametrize("fault, reason", [
    (204, "HTTP status 204"), (302, "HTTP status 302"), (401, "HTTP status 401"),
    (404, "HTTP status 404"), (429, "HTTP status 429"), (503, "HTTP status 503"),
    ("reset", r"\[Errno \d+\] Connection reset by peer"),
    ("shifted", r"HTTP status 206 bytes 1001-\d+/\d+")])
def test_a_try_that_brings_nothing_is_the_last(hub, models_dir, fault, reason):
    part = models_dir / "124M" / PART
    part.write_bytes(FILES[WEIGHTS][:1000])
    hub.faults = {WEIGHTS: [fault]}
    message = re.escape(f"{models_dir}/124M/{WEIGHTS} from {hub.url}{PLACE}{WEIGHTS}: ") + reason
    message += r"\. The same command goes on from there; --model_size 1M needs no download"
    assert re.fullmatch(message, refusal(models_dir))
    assert part.read_bytes() == FILES[WEIGHTS][:1000]
    assert_downloads(models_dir)


def test_a_hub_that_falls_silent_is_told(hub, models_dir, monkeypatch):
    monkeypatch.setattr(utils, "READ_SECONDS", 0.1)
    hub.faults = {name: ["silent"] for name in NAMES}
    assert re.search(r"config\.json: timed out\. The same command", refusal(models_dir))


@pytest.mark.parametrize("endpoint, words", [
    ("http://me:secret@127.0.0.1:9", r"http://127.0.0.1:9/openai.*: \[Errno \d+\] Connection ref"),
    ("http://nowhere.invalid/?key=secret", r"http://nowhere.invalid/: \[Errno -?\d+\] [^()<>]*\."),
    ("http://me:secret@[::1", "from http://\\[::1/"),
    ("http://me:secret@127.0.0.1:99999", "from http://127.0.0.1:99999/"),
    ("http://me:secret@no..host", "from http://no..host/.*label empty"),
    ("me:secret@127.0.0.1?key=secret", "^HF_ENDPOINT lacks http:// or https:// before 127.0.0.1$")])
def test_wrong_address_is_told_without_its_secrets(models_dir, monkeypatch, endpoint, words):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises((OSError, utils.UserError), match=words) as raised:
        gpt2_kvcache.main("The king", models_dir=models_dir)
    assert not re.search("secret|Max retries", str(raised.value))


@pytest.mark.parametrize("data", [b"of another file", b"too long" * 999_999])
def test_wrong_part_is_removed(models_dir, data):
    (models_dir / "124M" / PART).write_bytes(data)
    assert "It was removed" in refusal(models_dir)
    assert_downloads(models_dir)


def test_a_bar_for_each_file_begins_with_what_was_there(models_dir, monkeypatch):
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][: len(FILES[WEIGHTS]) // 2])
    ours, its = open_terminal()
    with open(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert_downloads(models_dir)
    page = shown(ours)
    for name in NAMES:
        assert re.search(rf"\b{name}: +\d+%.*{name}: 100%", page, re.DOTALL)
    assert f"{WEIGHTS}:  50%" in page and f"{WEIGHTS}:   0%" not in page


def test_ctrl_c_is_quiet_and_loses_nothing(hub, models_dir):
    hub.faults = {WEIGHTS: ["hold"]}
    part = models_dir / "124M" / PART
    with start(*program(models_dir)) as process:
        hub.half_sent.wait()
        while part.stat().st_size < 2**16:  # the time limit is this loop's bound
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (stdout, stderr.count("\n"), process.returncode) == ("", 1, 130)

    n_had = part.stat().st_size
    assert_downloads(models_dir)
    assert hub.ranges[WEIGHTS] == ["bytes=0-", f"bytes={n_had}-"]


def test_full_disk_loses_nothing(hub, models_dir):
    done = finish(*program(models_dir), shell='ulimit -f 2000; exec "$@"')
    assert done[0] == "" and done[2] == 1
    assert "File too large. The same command goes on from there" in done[1]
    assert_downloads(models_dir)
    assert hub.ranges[WEIGHTS][-1] == f"bytes={2000 * 512}-"


def test_second_process_waits_for_the_first(hub, models_dir):
    hub.faults = {WEIGHTS: ["hold"]}
    with start(*program(models_dir)) as first:
        hub.half_sent.wait()
        with start(*program(models_dir)) as second:
            assert second.stderr.readline() == (
                f"waiting for another process that downloads to {models_dir}/124M\n")
            hub.release.set()
            assert second.communicate() == (TEXT + "\n", "")
            assert first.communicate()[0] == TEXT + "\n"
    assert hub.paths == [PLACE + name for name in NAMES]


def test_file_system_without_locks(models_dir, monkeypatch):
    def fail(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert_downloads(models_dir)
