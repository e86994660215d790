"""Checkpoint files: those that people have load exactly, all others are refused by name."""
import os
import re
import shutil
import struct
import sys

import checkpoints
import numpy as np
import pytest
from checkpoints import TF_CHECKPOINT, header_and_data, pack, tiny_gpt2, write_config, write_model
from terminal import finish, open_terminal, shown

import utils
from utils import UserError, load_encoder_hparams_and_params, read_hparams

WEIGHTS, TF_DATA = "model.safetensors", "model.ckpt.data-00000-of-00001"
TENSORS = tiny_gpt2()
HEADER, DATA = header_and_data(TENSORS)
WHOLE = pack(HEADER, DATA)


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "tiny")


def load(folder):
    return load_encoder_hparams_and_params(folder.name, folder.parent)


def refusal(path, kind=UserError):
    """The message with which a folder is refused, or a file in a folder. It names the path."""
    with pytest.raises(kind, match=re.escape(str(path))) as raised:
        load(path.parent if path.suffix else path)
    return str(raised.value)


def assert_loads(folder, tensors=TENSORS):
    """Every array is what was written under its name, in a form that NumPy computes on as it is."""
    arrays = checkpoints.by_name(load(folder)[2])
    assert arrays.keys() == tensors.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32 and array.dtype.isnative
        assert array.flags.aligned and array.flags.writeable
        if array.ndim == 1 or name in ("wte.weight", "wpe.weight"):
            assert array.flags.c_contiguous, f"{name} is not stored row by row"
        else:
            assert array.flags.f_contiguous, f"{name} is not stored column by column"
        _, expected = tensors[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)
        np.testing.assert_array_equal(np.signbit(array), np.signbit(expected), err_msg=name)


# ---- what people have


def test_prefix_masks_and_tied_head_of_published_files_do_no_harm(tmp_path):
    mask = np.tri(16, dtype=np.float32)[None, None]
    tensors = TENSORS | {
        "h.0.attn.bias": ("F32", mask),
        "h.1.attn.bias": ("BOOL", mask.astype(bool)),
        "h.0.attn.masked_bias": ("F32", np.array(-1e4, np.float32)),
    }
    tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    tensors["lm_head.weight"] = TENSORS["wte.weight"]
    assert_loads(write_model(tmp_path / "published", tensors))


def test_header_may_have_another_order_than_its_data(folder):
    backwards = dict(reversed(HEADER.items()))
    (folder / WEIGHTS).write_bytes(pack(backwards, DATA))
    assert_loads(folder)


VALUES = {  # what bits mean
    "F32": lambda bits: bits.view("f4"),
    "F16": lambda bits: np.reshape(struct.unpack(f"<{bits.size}e", bits), bits.shape).astype("f4"),
    "BF16": lambda bits: (bits.astype("u4") << 16).view("f4"),
}


@pytest.mark.parametrize("dtype, stored", [("F32", "u4"), ("F16", "u2"), ("BF16", "u2")])
def test_any_bits_become_the_float32_of_the_same_value(tmp_path, dtype, stored):
    tensors, expected = {}, {}
    for name, (_, array) in tiny_gpt2(n_vocab=2**13).items():
        bits = array.view("u4").astype(stored)
        if name == "wte.weight":  # of 2**16 numbers
            bits = np.arange(0, 2**32, 2**16 + 1, "u4").astype(stored).reshape(bits.shape)
        tensors[name] = dtype, bits
        expected[name] = "F32", VALUES[dtype](bits)
    assert_loads(write_model(tmp_path / "bits", tensors, vocab_size=2**13), expected)


@pytest.mark.parametrize("config", [
    {"n_ctx": 99, "n_vocab": 99},
    {"n_inner": 32},
    {"n_inner": None},
    {"activation_function": "gelu_pytorch_tanh"},
    {"activation_function": "gelu_fast"},
    {"activation_function": ...},
    {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}])
def test_config_may_say_the_same_in_other_words(folder, config):
    write_config(folder / "config.json", **config)
    assert read_hparams(folder / "config.json") == checkpoints.HPARAMS | {"n_inner": 32}


@pytest.mark.parametrize("n_inner", [16, 48])
def test_a_narrower_or_wider_feed_forward_network_loads(tmp_path, n_inner):
    tensors = tiny_gpt2(n_inner=n_inner)
    assert_loads(write_model(tmp_path / "other", tensors, n_inner=n_inner), tensors)


def write_in_pieces(folder, n):
    """Write TENSORS in n pieces, as transformers does."""
    (folder / WEIGHTS).unlink()
    tensors = list(TENSORS.items())
    for i in range(n):
        piece = pack(*header_and_data(dict(tensors[i::n])))
        (folder / f"model-{i + 1:05}-of-{n:05}.safetensors").write_bytes(piece)


@pytest.mark.parametrize("n", [1, 12])
def test_weights_in_pieces_load(folder, n):
    write_in_pieces(folder, n)
    assert_loads(folder)


def test_damaged_or_missing_piece_is_named(folder):
    write_in_pieces(folder, 3)
    piece = folder / "model-00003-of-00003.safetensors"
    piece.write_bytes(piece.read_bytes()[:-1])
    refusal(piece)
    piece.unlink()
    refusal(piece, OSError)


def test_tensorflow_checkpoint_loads_exactly_as_its_safetensors_do(tmp_path):
    tensors = tiny_gpt2(n_layer=12)
    assert_loads(TF_CHECKPOINT, tensors)
    encoder, hparams, _ = load(TF_CHECKPOINT)
    same_encoder, same_hparams, _ = load(write_model(tmp_path / "same", tensors, n_layer=12))
    assert hparams == same_hparams
    assert encoder.encode("the wind") == same_encoder.encode("the wind")


def test_of_all_kinds_of_weights_safetensors_is_taken(folder):
    shutil.copytree(TF_CHECKPOINT, folder, dirs_exist_ok=True)
    (folder / "model-00001-of-00002.safetensors").touch()
    assert_loads(folder)


# ---- how they are read


MEASURE = """
import re, sys, utils
def peak():  # not ru_maxrss: a process starts with the peak of the one that started it
    status = open("/proc/self/status").read()
    return 1024 * int(re.search("VmHWM:\\\\s*(\\\\d+)", status)[1])
before = peak()
model = utils.load_encoder_hparams_and_params("large", sys.argv[1])
print(peak() - before)
"""


@pytest.mark.parametrize("dtype, stored", [("F32", "f4"), ("F16", "f2"), ("BF16", "u2")])
def test_loading_takes_the_memory_of_the_weights_and_of_one_stored_tensor(tmp_path, dtype, stored):
    tensors = {}
    for name, shape in checkpoints.shapes(n_vocab=2048, n_ctx=64, n_embd=256, n_layer=6).items():
        tensors[name] = dtype, np.ones(shape, stored)
    weights = 4 * sum(array.size for _, array in tensors.values())
    for i in range(6):
        tensors[f"h.{i}.attn.bias"] = dtype, np.ones((1, 1, 1024, 1024), stored)
    write_model(tmp_path / "large", tensors, vocab_size=2048, n_positions=64, n_embd=256, n_layer=6)
    taken, _, _ = finish("-c", MEASURE, tmp_path)
    # One tensor, and what allocators keep: a second copy takes 10 MB at least, the masks 12.
    assert weights <= int(taken) < weights + 5e6


@pytest.mark.parametrize("bar_after, page", [(0, r"\rloading: .*\r *\r"), (60, "")])
def test_long_loading_shows_a_bar_that_goes_away(folder, monkeypatch, bar_after, page):
    monkeypatch.setattr(utils, "BAR_AFTER", bar_after)
    ours, its = open_terminal()
    with open(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        load(folder)
    assert re.fullmatch(page, shown(ours))


def test_the_tokenizer_is_read_before_the_weights(folder):
    (folder / "vocab.json").write_text("no JSON")
    (folder / WEIGHTS).write_bytes(b"no weights")
    refusal(folder / "vocab.json")


def test_no_file_is_read_in_the_locales_encoding(folder):
    warn = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    code = "import sys, utils; utils.load_encoder_hparams_and_params('tiny', sys.argv[1])"
    assert finish(*warn, "-c", code, folder.parent) == ("", "", 0)


# ---- what is refused


@pytest.mark.parametrize("key, value", [
    ("model_type", "llama"),
    ("tokenizer_class", "BertTokenizer"),
    ("activation_function", "gelu"),
    ("layer_norm_epsilon", 1e-6),
    ("scale_attn_weights", False),
    ("scale_attn_by_inverse_layer_idx", True),
    ("add_cross_attention", True),
    ("n_head", 3),
    ("n_head", 0),
    ("n_head", "2"),
    ("n_embd", 8.0),
    ("n_embd", ...),
    ("n_layer", True),
    ("n_layer", 10**6)])
def test_config_that_cannot_be_run_is_refused_by_its_key(folder, key, value):
    write_config(folder / "config.json", **{key: value})
    assert f"{key} " in refusal(folder / "config.json")


@pytest.mark.parametrize("key, n", [
    ("n_layer", 2), ("n_layer", 4), ("n_inner", 24), ("n_inner", "24")])
def test_weights_of_another_size_than_configured_are_refused(folder, key, n):
    write_config(folder / "config.json", **{key: n})
    refusal(folder / WEIGHTS)


def test_head_of_its_own_is_refused(tmp_path):
    """It differs by a little in one number, or by a row."""
    wte = TENSORS["wte.weight"][1]
    near = wte.copy()
    near[-1, -1] = np.nextafter(near[-1, -1], np.float32(9))
    for name, head in [("near", near), ("longer", np.vstack([wte, wte[:1]]))]:
        folder = write_model(tmp_path / name, TENSORS | {"lm_head.weight": ("F32", head)})
        assert "lm_head.weight" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("content", [b'{"n_embd": 8', b"null", b'{"\xff": 1}', b"[" * 99_999],
                         ids=["cut short", "null", "not UTF-8", "too deep"])
def test_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refusal(folder / "config.json")


def changed(**changes):
    """A file whose header says something else of wpe.weight."""
    return pack(HEADER | {"wpe.weight": HEADER["wpe.weight"] | changes}, DATA)


DAMAGED = {
    "nothing": b"",
    "no header": bytes(8),
    "GGUF": b"GGUF\x03" + bytes(999),
    "cut in the header": WHOLE[:999],
    "cut by a byte": WHOLE[:-1],
    "a byte too long": WHOLE + b"\0",
    "header is null": pack(None, DATA),
    "no offsets": changed(data_offsets=None),
    "behind the end": changed(data_offsets=[len(DATA), len(DATA) + 512]),
    "another shape": changed(shape=[8, 16]),
    "no shape": changed(shape=None),
    "another type": changed(dtype="F64"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_weights_are_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    refusal(folder / WEIGHTS)


@pytest.mark.parametrize("n_bytes", [-4, 1])
def test_tensorflow_data_of_another_size_is_refused(tmp_path, n_bytes):
    path = shutil.copytree(TF_CHECKPOINT, tmp_path / "openai") / TF_DATA
    os.truncate(path, path.stat().st_size + n_bytes)
    refusal(path)


def test_folder_without_weights_says_what_it_holds(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    for words in ("pytorch_model.bin", WEIGHTS, TF_DATA, "save_pretrained"):
        assert words in message


def test_git_lfs_pointer_is_refused_as_that(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\n")
    assert "git lfs pull" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt"])
def test_missing_file_and_folder_in_its_place_are_named(folder, file):
    (folder / file).unlink()
    refusal(folder / file, OSError)
    (folder / file).mkdir()
    refusal(folder / file, OSError)


def test_names_with_another_prefix_are_told_as_that(tmp_path):
    tensors = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    assert "is called 'module.w" in refusal(write_model(tmp_path / "ddp", tensors) / WEIGHTS)
