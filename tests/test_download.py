"""Downloads: pinned, checked, resumed, and nothing is fetched that is already there."""
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
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
TEXT = "".join(gpt2_kvcache.main("The king", n_tokens_to_generate=3, model_size="1M"))

REVISIONS = {
    "124M": ("gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "355M": ("gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "774M": ("gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "1558M": ("gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}
PLACE = "/openai-community/{}/resolve/{}/".format(*REVISIONS["124M"])

# gpt2_kvcache.py, to which the stand-ins are what is published.
PUBLISHED = {name if name in ("vocab.json", "merges.txt") else f"124M/{name}": sha256
             for name, sha256 in SHA256.items()}
PROGRAM = f"""
import gpt2_kvcache
import utils
utils.SHA256 |= {PUBLISHED}
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
    monkeypatch.setattr(utils, "SHA256", utils.SHA256 | PUBLISHED)
    (tmp_path / "models/124M").mkdir(parents=True)
    return tmp_path / "models"


def run(models_dir, model_size="124M"):
    return "".join(gpt2_kvcache.main("The king", n_tokens_to_generate=3, model_size=model_size,
                                     models_dir=models_dir))


def assert_downloads(models_dir):
    """124M runs; all four files are there in the end, and nothing else."""
    assert run(models_dir) == TEXT
    assert {path.name: path.read_bytes() for path in (models_dir / "124M").iterdir()} == FILES


def refusal(models_dir, model_size="124M", kind=OSError):
    """The line that ends it."""
    with pytest.raises(kind) as raised:
        run(models_dir, model_size)
    return str(raised.value)


def program(models_dir):
    """The arguments for a process that does the same."""
    return ["-c", PROGRAM, "The king", "--n_tokens_to_generate=3", f"--models_dir={models_dir}"]


# ---- what is published


@pytest.mark.parametrize("model_size, size, shape, sha256", [
    ("124M", "548 MB", [768, 12, 12, 3072],
     "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    ("355M", "1.5 GB", [1024, 16, 24, 4096],
     "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd"),
    ("774M", "3.2 GB", [1280, 20, 36, 5120],
     "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
    ("1558M", "6.4 GB", [1600, 25, 48, 6400],
     "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a")])
def test_four_files_are_asked_for_and_are_the_published_ones(hub, tmp_path, capfd, model_size, size,
                                                             shape, sha256):
    """All but the weights are served here as they are published, so only these are refused."""
    hub.files["config.json"] = (FIXTURES / f"gpt2-config/{model_size}.json").read_bytes()
    for name in ("vocab.json", "merges.txt"):
        hub.files[name] = (FIXTURES / "gpt2-vocab" / name).read_bytes()

    message = refusal(tmp_path / "new", model_size)
    folder, (name, revision) = tmp_path / "new" / model_size, REVISIONS[model_size]
    assert f"its sha256 is {SHA256[WEIGHTS]}, not {sha256}, so it was removed" in message
    assert sorted(os.listdir(folder)) == ["config.json", "merges.txt", "vocab.json"]
    assert hub.paths == [f"/openai-community/{name}/resolve/{revision}/{file}" for file in NAMES]
    assert capfd.readouterr().err == (
        f"downloading config.json, vocab.json, merges.txt, model.safetensors ({size}) of "
        f"openai-community/{name} to {folder}\n")
    assert [*utils.read_hparams(folder / "config.json").values()] == [50257, 1024, *shape]


@pytest.mark.parametrize("endpoint", [None, ""])
def test_hub_is_hugging_face_by_default(hub, models_dir, monkeypatch, endpoint):
    assert utils.HUB == "https://huggingface.co"
    monkeypatch.setattr(utils, "HUB", hub.url)
    monkeypatch.delenv("HF_ENDPOINT")
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert_downloads(models_dir)


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
    assert run(models_dir) == TEXT
    assert hub.ranges[WEIGHTS] == [f"bytes={n_had}-"]
    assert {*os.listdir(models_dir / "124M")} == {"notes.txt", *NAMES}


@pytest.mark.parametrize("weights", ["model.ckpt.data-00000-of-00001",
                                     "model-00001-of-00001.safetensors"])
def test_weights_in_another_form_are_used_as_they_are(hub, models_dir, weights):
    folder = models_dir / "124M"
    shutil.copytree(FIXTURES / "tf-checkpoint", folder, dirs_exist_ok=True)
    if weights.endswith(".safetensors"):
        (folder / "model.ckpt.data-00000-of-00001").unlink()
        for name in NAMES:
            (folder / name).write_bytes(FILES[name])
        (folder / WEIGHTS).rename(folder / weights)
    before = os.listdir(folder)
    run(models_dir)
    assert hub.paths == [] and os.listdir(folder) == before


def lay_out_as_hugging_face_does(cache, repository, names, model_size="124M"):
    """A snapshot of these files: links to blobs that are named by a hash."""
    snapshot = cache / repository / "snapshots" / REVISIONS[model_size][1]
    blobs = cache / repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in names:
        (blobs / SHA256[name]).write_bytes(FILES[name])
        (snapshot / name).symlink_to(f"../../blobs/{SHA256[name]}")


@pytest.mark.parametrize("model_size", ["124M", "355M", "774M", "1558M"])
@pytest.mark.parametrize("owner", ["openai-community--", ""])
def test_what_hugging_face_has_cached_is_used(hub, models_dir, tmp_path, model_size, owner):
    repository = f"models--{owner}{REVISIONS[model_size][0]}"
    lay_out_as_hugging_face_does(tmp_path / "cache", repository, NAMES, model_size)
    assert run(models_dir, model_size) == TEXT
    assert hub.paths == [] and os.listdir(models_dir) == ["124M"]


@pytest.mark.parametrize("variables, cache", [
    ({"HF_HUB_CACHE": "a", "HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "a"),
    ({"HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "b"),
    ({"HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "c/hub"),
    ({"HF_HOME": "", "XDG_CACHE_HOME": "d"}, "d/huggingface/hub"),
    ({"HF_HUB_CACHE": "~/e"}, "e"), ({}, ".cache/huggingface/hub")])
def test_where_hugging_faces_cache_is(hub, models_dir, tmp_path, monkeypatch, variables, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE")
    for name, value in ({"HOME": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    lay_out_as_hugging_face_does(tmp_path / cache, "models--gpt2", NAMES)
    assert run(models_dir) == TEXT
    assert hub.paths == []


@pytest.mark.parametrize("cached, downloaded", [
    ([WEIGHTS], ["config.json", "vocab.json", "merges.txt"]),
    (["config.json", "merges.txt"], ["vocab.json", "merges.txt", WEIGHTS])])
def test_what_a_snapshot_lacks_is_downloaded(hub, models_dir, tmp_path, cached, downloaded):
    lay_out_as_hugging_face_does(tmp_path / "cache", "models--gpt2", cached)
    assert run(models_dir) == TEXT
    assert hub.paths == [PLACE + name for name in downloaded]


def test_own_folder_comes_before_the_cache(hub, models_dir, tmp_path):
    lay_out_as_hugging_face_does(tmp_path / "cache", "models--gpt2", NAMES)
    (models_dir / "124M/config.json").write_text("mine")
    assert str(models_dir / "124M/config.json") in refusal(models_dir, kind=utils.UserError)


# ---- what may go wrong


@pytest.mark.parametrize("faults", [[503], [429], ["reset"], [500, 502, 504], ["short", 503],
                                    ["empty", "short", "empty", "short", "short"], ["whole"]])
def test_a_download_goes_on_after_what_passes(hub, models_dir, faults):
    (models_dir / "124M" / PART).write_bytes(FILES[WEIGHTS][:1000])
    hub.faults = {WEIGHTS: list(faults)}
    assert_downloads(models_dir)
    begins = [int(asked[6:-1]) for asked in hub.ranges[WEIGHTS]]
    assert begins[0] == 1000 and begins == sorted(begins)
    assert len(begins) == len(faults) + (faults != ["whole"])


@pytest.mark.parametrize("faults, n_asked, reason", [
    ([401], 1, "HTTP status 401"), ([404], 1, "HTTP status 404"), ([204], 1, "HTTP status 204"),
    ([503] * 9, 4, "HTTP status 503"), ([429] * 9, 4, "HTTP status 429"),
    (["reset"] * 9, 4, "Connection reset by peer"), (["empty"] * 9, 2, "IncompleteRead"),
    (["short", *[404] * 3], 2, "HTTP status 404"), (["short", *["empty"] * 3], 3, "IncompleteRead"),
    (["short", *["reset"] * 9], 5, "Connection reset by peer")])
def test_a_download_ends_at_what_stays(hub, models_dir, faults, n_asked, reason):
    hub.faults = {WEIGHTS: list(faults)}
    message = refusal(models_dir)
    assert re.match(rf"{WEIGHTS} could not be downloaded from 127\.0\.0\.1: .*{reason}", message)
    assert len(hub.ranges[WEIGHTS]) == n_asked
    hub.faults.clear()
    assert_downloads(models_dir)


def test_pauses_and_timeouts_are_of_seconds():
    assert (utils.PAUSE, utils.TIMEOUT) == (1, (3, 10))


def test_a_hub_that_falls_silent_is_told(hub, models_dir, monkeypatch):
    monkeypatch.setattr(utils, "TIMEOUT", (3, 0.1))
    hub.faults = {name: ["silent"] * 9 for name in NAMES}
    assert "Read timed out" in refusal(models_dir)


def test_a_hub_that_does_not_take_connections_is_told(models_dir, monkeypatch):
    monkeypatch.setattr(utils, "TIMEOUT", (0.1, 10))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "timed out" in refusal(models_dir)
        for one in waiting:
            one.close()


def test_no_network_says_what_can_be_done_instead(models_dir, monkeypatch, caplog):
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    message = refusal(models_dir)
    assert message.startswith("config.json could not be downloaded from nowhere.invalid: ")
    assert f"Or put {', '.join(NAMES)} of openai-community/gpt2 into {models_dir}/124M" in message
    assert "--model_size 1M needs no download" in message
    assert "Max retries" not in message  # which is what requests says of any reason
    assert len([line for line in caplog.messages if "Retrying" in line]) == 2


@pytest.mark.parametrize("variable, endpoint", [
    ("HTTP_PROXY", "http://nowhere.invalid"), ("HTTPS_PROXY", "https://nowhere.invalid")])
def test_a_dead_proxy_is_told_and_no_error_of_the_callers(models_dir, monkeypatch, variable,
                                                         endpoint):
    monkeypatch.setenv(variable, "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    try:
        raise utils.UserError("the caller's own")
    except utils.UserError:
        message = refusal(models_dir)
    assert re.search("proxy.*Connection refused", message)
    assert not re.search("caller|secret|Max retries", message)


@pytest.mark.parametrize("endpoint", [
    "http://me:secret@[::1", "http://me:secret@127.0.0.1:99999", "http://me:secret@no..host",
    "me:secret@127.0.0.1", "huggingface.co", "ftp://me:secret@127.0.0.1", "https://"])
def test_wrong_address_is_told_without_its_password(models_dir, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    message = refusal(models_dir, kind=utils.UserError)
    assert "HF_ENDPOINT" in message and "secret" not in message


@pytest.mark.parametrize("endpoint", ["http://me:secret@127.0.0.1:9", "http://me:secret@nowhere.x"])
def test_password_is_not_told(models_dir, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "secret" not in refusal(models_dir)


@pytest.mark.parametrize("data, fault", [
    (b"of another file", None), (b"too long" * 999_999, None), (FILES[WEIGHTS][:99], "shifted")])
def test_wrong_part_is_removed(hub, models_dir, data, fault):
    (models_dir / "124M" / PART).write_bytes(data)
    hub.faults = {WEIGHTS: [fault]}
    assert "so it was removed" in refusal(models_dir)
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
    stdout, stderr, status = finish(*program(models_dir), shell='ulimit -f 2000; exec "$@"')
    assert (stdout, status) == ("", 1) and "File too large" in stderr
    assert_downloads(models_dir)
    assert hub.ranges[WEIGHTS][-1] == f"bytes={2000 * 512}-"


def test_second_process_waits_for_the_first(hub, models_dir):
    hub.faults = {WEIGHTS: ["hold"]}
    with start(*program(models_dir)) as first:
        hub.half_sent.wait()
        with start(*program(models_dir)) as second:
            second.stderr.readline()  # it knows what is missing, and waits
            hub.release.set()
            assert second.communicate() == (TEXT + "\n", "")
            assert first.communicate()[0] == TEXT + "\n"
    assert hub.paths == [PLACE + name for name in NAMES]


def test_systems_without_locks(models_dir, monkeypatch):
    def fail(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert_downloads(models_dir)
    shutil.rmtree(models_dir / "124M")
    monkeypatch.setattr(utils, "fcntl", None)  # as on Windows
    assert_downloads(models_dir)
