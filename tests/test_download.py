"""Downloads: pinned, checked, resumed, and nothing is fetched that is already there."""
import fcntl
import hashlib
import os
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
NAMES = CONFIG, VOCAB, MERGES, WEIGHTS = [
    "config.json", "vocab.json", "merges.txt", "model.safetensors"]
FILES = {name: (ROOT / "models/1M" / name).read_bytes() for name in NAMES}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
PART = "model.safetensors.part"
TEXT = "".join(gpt2_kvcache.main("The king", n_tokens_to_generate=3, model_size="1M"))

PUBLISHED = {  # name, revision, and of the weights: size and sha256
    "124M": ("gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", "548 MB",
             "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "355M": ("gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da", "1.5 GB",
             "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd"),
    "774M": ("gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519", "3.2 GB",
             "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
    "1558M": ("gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2", "6.4 GB",
              "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"),
}
PLACE = "/openai-community/{}/resolve/{}/".format(*PUBLISHED["124M"])
SNAPSHOT = "models--{}/snapshots/{}".format(*PUBLISHED["124M"])

# gpt2_kvcache.py, to which the stand-ins are what is published.
PROGRAM = f"""
import gpt2_kvcache
import utils
utils.SHA256 = {SHA256}
utils.run(gpt2_kvcache.main)
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has FILES, which is asked again without pauses."""
    monkeypatch.setattr(utils, "PAUSE", 0)
    with Hub(FILES) as hub, sealed_off(monkeypatch, tmp_path / "cache", hub.url):
        yield hub


@pytest.fixture
def models_dir(hub, monkeypatch, tmp_path):
    """A folder for models, and FILES are what is published."""
    monkeypatch.setattr(utils, "SHA256", SHA256)
    (tmp_path / "models/124M").mkdir(parents=True)
    return tmp_path / "models"


def put(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(FILES[name])


def run(models_dir, model_size="124M"):
    return "".join(gpt2_kvcache.main("The king", n_tokens_to_generate=3, model_size=model_size,
                                     models_dir=models_dir))


def assert_downloads(models_dir):
    """124M runs; all four files are there in the end, and nothing else."""
    assert run(models_dir) == TEXT
    assert {path.name: path.read_bytes() for path in (models_dir / "124M").iterdir()} == FILES


def refusal(models_dir, model_size="124M"):
    """The line that ends it."""
    with pytest.raises((OSError, utils.UserError)) as raised:
        run(models_dir, model_size)
    return str(raised.value)


def program(models_dir):
    """The arguments for a process that does the same."""
    return ["-c", PROGRAM, "The king", "--n_tokens_to_generate=3", f"--models_dir={models_dir}"]


# ---- what is downloaded


@pytest.mark.parametrize("model_size", PUBLISHED)
def test_four_files_are_asked_for_and_are_the_published_ones(hub, tmp_path, capfd, monkeypatch,
                                                             model_size):
    """A mirror serves all but the weights as they are published, so only these are refused."""
    hub.files[CONFIG] = (FIXTURES / f"gpt2-config/{model_size}.json").read_bytes()
    for file in (VOCAB, MERGES):
        hub.files[file] = (FIXTURES / "gpt2-vocab" / file).read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror/")

    name, revision, size, sha256 = PUBLISHED[model_size]
    assert f"{SHA256[WEIGHTS]}, not {sha256}, so" in refusal(tmp_path, model_size)
    assert hub.paths == [f"/mirror/openai-community/{name}/resolve/{revision}/{file}"
                         for file in NAMES]
    assert capfd.readouterr().err == (
        f"downloading config.json, vocab.json, merges.txt, model.safetensors ({size}) of "
        f"openai-community/{name} to {tmp_path}/{model_size}\n")
    assert utils.read_hparams(tmp_path / model_size / CONFIG)["n_ctx"] == 1024


def test_hugging_face_is_asked_if_no_mirror_is_named(hub, models_dir, monkeypatch):
    assert utils.HUB == "https://huggingface.co"
    monkeypatch.setattr(utils, "HUB", hub.url)
    monkeypatch.delenv("HF_ENDPOINT")
    assert run(models_dir, "124M") == TEXT
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert run(models_dir, "355M") == TEXT


@pytest.mark.parametrize("own, cached, downloaded", [
    (NAMES, [], []),
    ([], NAMES, []),
    ([VOCAB, MERGES, WEIGHTS], [], [CONFIG]),
    ([CONFIG, MERGES, WEIGHTS], [], [VOCAB]),
    ([CONFIG, VOCAB, WEIGHTS], [], [MERGES]),
    ([CONFIG, VOCAB, MERGES], [], [WEIGHTS]),
    ([], [WEIGHTS], [CONFIG, VOCAB, MERGES]),
    ([CONFIG, VOCAB], [MERGES, WEIGHTS], [MERGES])])
def test_only_what_is_missing_is_downloaded(hub, models_dir, tmp_path, capfd, own, cached,
                                            downloaded):
    put(models_dir / "124M", own)
    put(tmp_path / "cache" / SNAPSHOT, cached)
    assert run(models_dir) == TEXT
    assert hub.paths == [PLACE + name for name in downloaded]
    assert {*os.listdir(models_dir / "124M")} == {*own, *downloaded}
    size = "548 MB" if WEIGHTS in downloaded else "1.5 MB"
    assert capfd.readouterr().err.count(f"{', '.join(downloaded)} ({size})") == bool(downloaded)


def test_weights_in_another_form_are_used_as_they_are(hub, models_dir):
    shutil.copytree(FIXTURES / "tf-checkpoint", models_dir / "355M")
    run(models_dir, "355M")
    put(models_dir / "124M", NAMES)
    (models_dir / "124M" / WEIGHTS).rename(models_dir / "124M/model-00001-of-00001.safetensors")
    assert run(models_dir) == TEXT
    assert hub.paths == []


@pytest.mark.parametrize("model_size", PUBLISHED)
def test_what_hugging_face_has_cached_is_used(hub, models_dir, tmp_path, model_size):
    name, revision, *_ = PUBLISHED[model_size]
    repository = f"models--openai-community--{name}"
    put(tmp_path / "cache" / repository / "snapshots" / revision, NAMES)
    assert run(models_dir, model_size) == TEXT
    assert hub.paths == []


@pytest.mark.parametrize("variables, cache", [
    ({"HF_HUB_CACHE": "a", "HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "a"),
    ({"HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "b"),
    ({"HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "c/hub"),
    ({"HF_HOME": "", "XDG_CACHE_HOME": "d"}, "d/huggingface/hub"),
    ({"HF_HUB_CACHE": "~/e"}, "e"),
    ({}, ".cache/huggingface/hub")])
def test_where_hugging_faces_cache_is(hub, models_dir, tmp_path, monkeypatch, variables, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE")
    for name, value in ({"HOME": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    put(tmp_path / cache / SNAPSHOT, NAMES)
    assert run(models_dir) == TEXT
    assert hub.paths == []


def test_own_folder_comes_before_the_cache(models_dir, tmp_path):
    put(tmp_path / "cache" / SNAPSHOT, NAMES)
    (models_dir / "124M" / CONFIG).write_text("mine")
    assert f"{models_dir}/124M/config.json" in refusal(models_dir)


# ---- what may go wrong


@pytest.mark.parametrize("n_had, faults, n_asked", [
    (len(FILES[WEIGHTS]), [], 1),
    (1000, [503], 2),
    (1000, [429], 2),
    (1000, ["closed"], 2),
    (1000, [500, 502, 504], 4),
    (1000, ["short", 503], 3),
    (1000, ["empty", "short", "empty", "short", "short"], 6),
    (1000, ["whole"], 1)])
def test_a_download_goes_on_after_what_passes(hub, models_dir, n_had, faults, n_asked):
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][:n_had])
    hub.faults = list(faults)
    assert_downloads(models_dir)
    assert hub.begins[0] == n_had and hub.begins == sorted(hub.begins)
    assert len(hub.begins) == n_asked


@pytest.mark.parametrize("faults, n_asked, reason", [
    ([401], 1, "HTTP status 401"),
    ([404], 1, "HTTP status 404"),
    ([204], 1, "HTTP status 204"),
    ([503] * 9, 4, "HTTP status 503"),
    ([429] * 9, 4, "HTTP status 429"),
    (["closed"] * 9, 4, "closed connection"),
    (["empty"] * 9, 2, "IncompleteRead"),
    (["short", *[404] * 3], 2, "HTTP status 404"),
    (["short", *["empty"] * 3], 3, "IncompleteRead"),
    (["short", *["closed"] * 9], 5, "closed connection")])
def test_a_download_ends_at_what_stays(hub, models_dir, faults, n_asked, reason):
    hub.faults = list(faults)
    message = refusal(models_dir)
    assert message.startswith(f"{WEIGHTS} could not be downloaded from 127.0.0.1: ")
    assert reason in message and len(hub.begins) == n_asked
    hub.faults.clear()
    assert_downloads(models_dir)


def test_pauses_and_timeouts_are_of_seconds():
    assert (utils.PAUSE, utils.TIMEOUT) == (1, (3, 10))


def test_a_hub_that_falls_silent_is_told(hub, models_dir, monkeypatch):
    monkeypatch.setattr(utils, "TIMEOUT", (3, 0.1))
    hub.faults = ["silent"] * 9
    assert "Read timed out" in refusal(models_dir)


def test_no_network_says_what_can_be_done_instead(models_dir, monkeypatch, caplog):
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    message = refusal(models_dir)
    assert message.startswith("config.json could not be downloaded from nowhere.invalid: ")
    assert f"Or put {', '.join(NAMES)} of openai-community/gpt2 into {models_dir}/124M" in message
    assert caplog.text.count("Retrying") == 2


@pytest.mark.parametrize("variable, address, said", [
    ("HTTPS_PROXY", "http://me:secret@127.0.0.1:9", "proxy"),
    ("HF_ENDPOINT", "http://me:secret@127.0.0.1:9", "from 127.0.0.1: "),
    ("HF_ENDPOINT", "http://me:secret@no..host", "HF_ENDPOINT"),
    ("HF_ENDPOINT", "http://me:secret@[::1", "HF_ENDPOINT"),
    ("HF_ENDPOINT", "me:secret@127.0.0.1", "HF_ENDPOINT"),
    ("HF_ENDPOINT", "huggingface.co", "HF_ENDPOINT")])
def test_an_address_that_cannot_be_used_is_told_without_its_password(models_dir, monkeypatch,
                                                                     variable, address, said):
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setenv(variable, address)
    message = refusal(models_dir)
    assert said in message
    assert "secret" not in message and "Max retries" not in message


def test_wrong_part_is_removed(models_dir):
    (models_dir / "124M" / PART).write_bytes(b"of another file")
    assert "so it was removed" in refusal(models_dir)
    assert_downloads(models_dir)


def test_a_bar_for_each_file_begins_with_what_was_there(models_dir, monkeypatch):
    half = len(FILES[WEIGHTS]) // 2
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][:half])
    ours, its = open_terminal()
    with open(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert_downloads(models_dir)
    page = shown(ours)
    assert all(f"{name}: 100%" in page for name in NAMES)
    assert f"{WEIGHTS}:  50%" in page and f"{WEIGHTS}:   0%" not in page


def test_ctrl_c_is_quiet_and_loses_nothing(hub, models_dir):
    hub.faults = ["hold"]
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
    assert hub.begins == [0, n_had]


def test_full_disk_loses_nothing(hub, models_dir):
    stdout, stderr, status = finish(*program(models_dir), shell='ulimit -f 2000; exec "$@"')
    assert (stdout, status) == ("", 1) and "File too large" in stderr
    assert_downloads(models_dir)
    assert hub.begins[-1] == 2000 * 512


def test_second_process_waits_for_the_first(hub, models_dir):
    hub.faults = ["hold"]
    with start(*program(models_dir)) as first:
        hub.half_sent.wait()
        with start(*program(models_dir)) as second:
            second.stderr.readline()  # it knows what is missing, and waits
            hub.release.set()
            assert second.communicate() == (TEXT + "\n", "")
            stdout, stderr = first.communicate()
    assert (stdout, stderr.count("\n"), first.returncode) == (TEXT + "\n", 1, 0)
    assert hub.paths == [PLACE + name for name in NAMES]


def test_systems_without_locks(models_dir, monkeypatch):
    monkeypatch.setattr(fcntl, "LOCK_EX", 0)  # an error, as where a file system has no locks
    assert run(models_dir, "124M") == TEXT
    monkeypatch.setattr(utils, "fcntl", None)  # as on Windows
    assert run(models_dir, "355M") == TEXT
