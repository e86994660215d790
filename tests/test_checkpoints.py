"""Checkpoint files: those that people have load exactly, all others are refused by name."""
import json
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from checkpoints import TF_CHECKPOINT, pack, tiny_gpt2, write_config, write_model, write_safetensors
from terminal import open_terminal, shown

import gpt2_kvcache
import utils
from utils import UserError, load_encoder_hparams_and_params, read_hparams, read_params

WEIGHTS, TF_DATA = "model.safetensors", "model.ckpt.data-00000-of-00001"
HPARAMS = checkpoints.HPARAMS | {"n_inner": 32}


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def load(folder):
    return load_encoder_hparams_and_params(folder.name, folder.parent)


def refusal(path, kind=UserError) -> str:
    """The message with which a folder is refused, or a file in a folder. It names the path."""
    with pytest.raises(kind, match=re.escape(str(path))) as raised:
        load(path.parent if path.suffix else path)
    return str(raised.value)


def assert_exact(params, expected):
    """Every array is what was written under its name, in a form that NumPy computes on as it is."""
    arrays = checkpoints.by_name(params)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32 and array.dtype.isnative
        assert array.flags.aligned and array.flags.writeable
        is_matrix_of_a_layer = array.ndim == 2 and name not in ("wte.weight", "wpe.weight")
        if is_matrix_of_a_layer:
            assert array.flags.f_contiguous, f"{name} is not stored column by column"
        else:
            assert array.flags.c_contiguous, f"{name} is not stored row by row"
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        np.testing.assert_array_equal(np.signbit(array), np.signbit(expected[name]), err_msg=name)


def arrays_of(tensors):
    return {name: array for name, (_, array) in tensors.items()}


# ---- what people have


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_masks_prefix_and_order_of_published_files_do_no_harm(folder, prefix):
    mask = np.tri(16, dtype=np.float32)[None, None]
    masks = {"h.0.attn.bias": ("F32", mask), "h.1.attn.bias": ("BOOL", mask.astype(bool)),
             "h.0.attn.masked_bias": ("F32", np.array(-1e4, np.float32))}
    tensors = {prefix + name: tensor for name, tensor in sorted((tiny_gpt2() | masks).items())}
    write_safetensors(folder / WEIGHTS, tensors)
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2()))


def test_header_may_have_another_order_than_its_data(folder):
    header = checkpoints.header_of(tiny_gpt2())
    backwards = {name: header[name] for name in reversed(header)}
    data = b"".join(array.tobytes() for _, array in tiny_gpt2().values())
    (folder / WEIGHTS).write_bytes(pack(backwards, data))
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2()))


def test_head_that_is_tied_to_the_embedding_loads(folder):
    head = {"lm_head.weight": tiny_gpt2()["wte.weight"]}
    write_safetensors(folder / WEIGHTS, head | tiny_gpt2())
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2()))


EXACT = {  # what bits mean
    "F32": lambda bits: bits.view("f4"),
    "F16": lambda bits: np.reshape(struct.unpack(f"<{bits.size}e", bits), bits.shape).astype("f4"),
    "BF16": lambda bits: (bits.astype("u4") << 16).view("f4"),
}


@pytest.mark.parametrize("dtype, stored", [("F32", "u4"), ("F16", "u2"), ("BF16", "u2")])
def test_any_bits_become_the_float32_of_the_same_value(folder, dtype, stored):
    hparams = HPARAMS | {"n_vocab": 2**13}  # 2**16 numbers
    bits = {name: checkpoints.drawn(name, shape).view("u4").astype(stored)
            for name, shape in checkpoints.shapes(**hparams).items()}
    bits["wte.weight"] = (np.arange(2**16, dtype="u4") * 65537).astype(stored).reshape(-1, 8)
    write_safetensors(folder / WEIGHTS, {name: (dtype, array) for name, array in bits.items()})
    params = read_params(folder / WEIGHTS, hparams)
    assert_exact(params, {name: EXACT[dtype](array) for name, array in bits.items()})


@pytest.mark.parametrize("config", [
    {"n_positions": ..., "n_ctx": 16}, {"n_ctx": 99}, {"n_vocab": 99}, {"n_inner": 32},
    {"n_inner": None}, {"activation_function": "gelu_pytorch_tanh"},
    {"activation_function": "gelu_fast"}, {"activation_function": ...},
    {"scale_attn_weights": True}, {"scale_attn_by_inverse_layer_idx": False}])
def test_config_may_say_the_same_in_other_words(folder, config):
    write_config(folder / "config.json", **config)
    assert read_hparams(folder / "config.json") == HPARAMS


def test_a_wider_or_narrower_feed_forward_network_loads(folder):
    for n_inner in (16, 48):
        tensors = tiny_gpt2()
        for i in range(3):
            for name, shape in [("c_fc.weight", (8, n_inner)), ("c_fc.bias", (n_inner,)),
                                ("c_proj.weight", (n_inner, 8))]:
                name = f"h.{i}.mlp.{name}"
                tensors[name] = "F32", checkpoints.drawn(name, shape)
        write_config(folder / "config.json", n_inner=n_inner)
        write_safetensors(folder / WEIGHTS, tensors)
        assert_exact(load(folder)[2], arrays_of(tensors))


def write_in_pieces(folder, n):
    """Write the weights of tiny_gpt2 in n pieces, as transformers does."""
    (folder / WEIGHTS).unlink()
    tensors = list(tiny_gpt2().items())
    for i in range(n):
        path = folder / f"model-{i + 1:05}-of-{n:05}.safetensors"
        write_safetensors(path, dict(tensors[i::n]))
    (folder / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize("n", [1, 2, 12])
def test_weights_in_pieces_load(folder, n):
    write_in_pieces(folder, n)
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2()))


def test_a_missing_piece_is_named(folder):
    write_in_pieces(folder, 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refusal(folder / "model-00002-of-00003.safetensors", OSError)


def test_damaged_piece_is_named(folder):
    write_in_pieces(folder, 3)
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refusal(path)


def test_tensorflow_checkpoint_loads_exactly_and_generates_what_safetensors_does(tmp_path):
    tensors = tiny_gpt2(n_layer=12)
    assert_exact(load(TF_CHECKPOINT)[2], arrays_of(tensors))
    same = write_model(tmp_path / "same", tensors, n_layer=12)
    texts = {"".join(gpt2_kvcache.main("the wind", model_size=folder.name, n_tokens_to_generate=8,
                                       models_dir=folder.parent))
             for folder in (TF_CHECKPOINT, same)}
    assert len(texts) == 1


def test_model_with_more_ids_than_the_tokenizer_loads(folder):
    write_config(folder / "config.json", vocab_size=288)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_vocab=288))
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2(n_vocab=288)))


def test_of_all_kinds_of_weights_safetensors_is_taken(tmp_path):
    folder = Path(shutil.copytree(TF_CHECKPOINT, tmp_path / "all"))
    write_model(tmp_path / "other")
    shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True)
    (folder / "model-00001-of-00002.safetensors").touch()
    assert_exact(load(folder)[2], arrays_of(tiny_gpt2()))


# ---- how they are read


MEASURE = """
import json, sys
from pathlib import Path
from utils import read_params
def peak():  # not ru_maxrss: a process starts with the peak of the one that started it
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
params = read_params(Path(sys.argv[1]), json.loads(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.parametrize("dtype, stored", [("F32", "f4"), ("F16", "f2"), ("BF16", "u2")])
def test_loading_takes_the_memory_of_the_weights_and_of_one_stored_tensor(tmp_path, dtype, stored):
    hparams = {"n_vocab": 2048, "n_ctx": 64, "n_embd": 256, "n_layer": 6, "n_inner": 1024}
    tensors = {n: (dtype, np.ones(s, stored)) for n, s in checkpoints.shapes(**hparams).items()}
    masks = {f"h.{i}.attn.bias": (dtype, np.ones((1, 1, 1024, 1024), stored)) for i in range(6)}
    write_safetensors(tmp_path / WEIGHTS, tensors | masks)
    command = [sys.executable, "-c", MEASURE, tmp_path / WEIGHTS, json.dumps(hparams)]
    taken = int(subprocess.run(command, cwd=Path(utils.__file__).parent, check=True,
                               capture_output=True).stdout)
    weights = 4 * sum(array.size for _, array in tensors.values())
    # One tensor, and what allocators keep: a second copy takes 10 MB at least, the masks 12.
    assert weights <= taken < weights + 5e6


@pytest.mark.parametrize("seconds, bars", [(0, 1), (1, 0)])
def test_loading_shows_a_bar_that_goes_away_if_it_takes_long(folder, monkeypatch, seconds, bars):
    monkeypatch.setattr(utils, "BAR_AFTER", seconds)
    ours, its = open_terminal()
    with open(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        load(folder)
    page = shown(ours)
    assert ("loading: " in page) == bool(bars)
    assert page == "" or page.endswith("\r")  # the line is empty again


def test_the_tokenizer_is_read_before_the_weights(folder):
    (folder / "vocab.json").write_text("no JSON")
    (folder / WEIGHTS).write_bytes(b"no weights")
    refusal(folder / "vocab.json")


def test_no_file_is_read_in_the_locales_encoding(folder):
    code = (f"import utils; utils.load_encoder_hparams_and_params({folder.name!r}, "
            f"{str(folder.parent)!r})")
    subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:utils",
         "-W", "error::EncodingWarning:encoder", "-c", code],
        cwd=Path(utils.__file__).parent, check=True)


# ---- what is refused


@pytest.mark.parametrize("key, value", [
    ("tokenizer_class", "BertTokenizer"), ("activation_function", "gelu"),
    ("layer_norm_epsilon", 1e-6), ("scale_attn_weights", False),
    ("scale_attn_by_inverse_layer_idx", True), ("add_cross_attention", True), ("n_head", 3),
    ("n_head", 0), ("n_head", "2"), ("n_head", ...), ("n_embd", 8.0), ("n_embd", None),
    ("n_layer", True), ("n_layer", 10**30), ("n_inner", 24), ("n_inner", "24")])
def test_config_that_cannot_be_run_is_refused_by_its_key(folder, key, value):
    write_config(folder / "config.json", **{key: value})
    refused = WEIGHTS if key == "n_inner" else "config.json"
    assert {"n_inner": "c_fc"}.get(key, key) in refusal(folder / refused)


def test_config_of_another_architecture_is_told_as_that(folder):
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    assert "model_type is 'llama'" in refusal(folder / "config.json")


@pytest.mark.parametrize("content", [b"", b'{"n_embd": 8', b"null", b'{"\xff": 1}', b"[" * 100_000])
def test_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refusal(folder / "config.json")


@pytest.mark.parametrize("change", ["one number a little", "a row", "all"])
def test_head_of_its_own_is_refused(folder, change):
    head = tiny_gpt2()["wte.weight"][1].copy()
    if change == "one number a little":
        head[-1, -1] = np.nextafter(head[-1, -1], np.float32(9))
    elif change == "a row":
        head = np.vstack([head, head[:1]])
    else:
        head = head + 1
    write_safetensors(folder / WEIGHTS, tiny_gpt2() | {"lm_head.weight": ("F32", head)})
    assert "lm_head.weight" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("n_layer", [2, 4])
def test_more_or_fewer_layers_than_configured_are_refused(folder, n_layer):
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_layer=n_layer))
    refusal(folder / WEIGHTS)


DATA = b"".join(array.tobytes() for _, array in tiny_gpt2().values())
HEADER = checkpoints.header_of(tiny_gpt2())
TEXT = json.dumps(HEADER).encode()


@pytest.mark.parametrize("change", [
    {"data_offsets": [8960]}, {"data_offsets": None}, {"data_offsets": ["8960", "9472"]},
    {"data_offsets": [len(DATA), len(DATA) + 512]}, {"shape": [8, 16]}, {"shape": [128]},
    {"shape": None}, {"dtype": "F64"}, {"dtype": "F8_E4M3"}, {"dtype": None}])
def test_tensor_that_is_not_the_models_is_refused(folder, change):
    header = HEADER | {"wpe.weight": HEADER["wpe.weight"] | change}
    (folder / WEIGHTS).write_bytes(pack(header, DATA))
    refusal(folder / WEIGHTS)


@pytest.mark.parametrize("content", [
    b"", bytes(7), bytes(8), pack(TEXT, DATA)[:999], pack(TEXT, DATA)[:-1],
    pack(TEXT, DATA + b"\0"), pack(TEXT[:-9], DATA), pack(b"{}", DATA), pack(b"null", DATA),
    pack(b"[" * 100_000, DATA), pack(TEXT.replace(b"wpe", b"\xff"), DATA),
    len(TEXT).to_bytes(8, "big") + TEXT + DATA])
def test_file_that_is_damaged_or_cut_short_is_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    refusal(folder / WEIGHTS)


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-4]])
def test_tensorflow_data_of_another_size_is_refused(tmp_path, change):
    path = Path(shutil.copytree(TF_CHECKPOINT, tmp_path / "openai")) / TF_DATA
    path.write_bytes(change(path.read_bytes()))
    refusal(path)


@pytest.mark.parametrize("files", [["pytorch_model.bin"], ["model.gguf"], []])
def test_folder_without_weights_says_what_it_holds_and_is_left_alone(tmp_path, files):
    folder = write_model(tmp_path / "mine")
    (folder / WEIGHTS).unlink()
    for file in files:
        (folder / file).write_bytes(b"weights")
    before = sorted(folder.iterdir())
    message = refusal(folder)
    assert all(word in message for word in [*files, WEIGHTS, TF_DATA, "save_pretrained"])
    assert sorted(folder.iterdir()) == before


def test_git_lfs_pointer_is_refused_as_that(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"
                                  f"oid sha256:{'0123456789abcdef' * 4}\nsize 548105171\n")
    assert "git lfs pull" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", WEIGHTS])
def test_folder_in_the_place_of_a_file_and_a_missing_file_are_named(folder, file):
    (folder / file).unlink()
    if file != WEIGHTS:
        refusal(folder / file, OSError)
    (folder / file).mkdir()
    refusal(folder / file, OSError)


OTHER_FORMATS = {  # how a file of this kind begins
    "pytorch_model.bin": b"PK\x03\x04\x00\x00\x08\x08",
    "model.gguf": b"GGUF\x03\x00\x00\x00",
    "tf_model.h5": b"\x89HDF\r\n\x1a\n",
}


@pytest.mark.parametrize("beginning", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_file_of_another_format_is_refused_without_reading_it(folder, beginning):
    with open(folder / WEIGHTS, "wb") as file:
        file.write(beginning)
        file.truncate(6_000_000_000)  # sparse
    tracemalloc.start()
    message = refusal(folder / WEIGHTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not a safetensors file" in message
    assert len(message) < 300 + len(str(folder)) and peak < 10_000_000


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.transformer."])
def test_names_with_another_prefix_are_told_as_that(folder, prefix):
    tensors = {prefix + name: tensor for name, tensor in tiny_gpt2().items()}
    write_safetensors(folder / WEIGHTS, tensors)
    assert f"is called '{prefix}w" in refusal(folder / WEIGHTS)
