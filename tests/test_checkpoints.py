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

import gpt2_kvcache
import utils
from utils import UserError, load_encoder_hparams_and_params, read_hparams, read_params

WEIGHTS, TF_DATA = "model.safetensors", "model.ckpt.data-00000-of-00001"


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


def all_drawn(**hparams):
    return {name: array for name, (_, array) in tiny_gpt2(**hparams).items()}


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_masks_prefix_and_order_of_published_files_do_no_harm(folder, prefix):
    mask = np.tri(16, dtype=np.float32)[None, None]
    masks = {"h.0.attn.bias": ("F32", mask), "h.1.attn.bias": ("BOOL", mask.astype(bool)),
             "h.0.attn.masked_bias": ("F32", np.array(-1e4, np.float32))}
    tensors = {prefix + name: tensor for name, tensor in sorted((tiny_gpt2() | masks).items())}
    write_safetensors(folder / WEIGHTS, tensors)
    assert_exact(load(folder)[2], all_drawn())


def test_head_that_is_tied_to_the_embedding_loads(folder):
    head = {"lm_head.weight": tiny_gpt2()["wte.weight"]}
    write_safetensors(folder / WEIGHTS, head | tiny_gpt2())
    assert_exact(load(folder)[2], all_drawn())


EXACT = {  # what bits mean
    "F32": lambda bits: bits.view("f4"),
    "F16": lambda bits: np.reshape(struct.unpack(f"<{bits.size}e", bits), bits.shape).astype("f4"),
    "BF16": lambda bits: (bits.astype("u4") << 16).view("f4"),
}


@pytest.mark.parametrize("dtype, stored", [("F32", "u4"), ("F16", "u2"), ("BF16", "u2")])
def test_any_bits_become_the_float32_of_the_same_value(folder, dtype, stored):
    hparams = checkpoints.HPARAMS | {"n_vocab": 2**13}  # 2**16 numbers
    bits = {name: checkpoints.drawn(name, shape).view("u4").astype(stored)
            for name, shape in checkpoints.shapes(**hparams).items()}
    bits["wte.weight"] = (np.arange(2**16, dtype="u4") * 65537).astype(stored).reshape(-1, 8)
    write_safetensors(folder / WEIGHTS, {name: (dtype, array) for name, array in bits.items()})
    params = read_params(folder / WEIGHTS, hparams)
    assert_exact(params, {name: EXACT[dtype](array) for name, array in bits.items()})


@pytest.mark.parametrize("config", [
    {"n_positions": ..., "n_ctx": 16}, {"n_ctx": 99}, {"n_inner": 32}, {"n_inner": None},
    {"activation_function": "gelu_pytorch_tanh"}, {"activation_function": ...},
    {"scale_attn_weights": True}, {"scale_attn_by_inverse_layer_idx": False}])
def test_config_may_say_the_same_in_other_words(folder, config):
    write_config(folder / "config.json", **config)
    assert read_hparams(folder / "config.json") == checkpoints.HPARAMS


def test_tensorflow_checkpoint_loads_exactly():
    assert_exact(load(TF_CHECKPOINT)[2], all_drawn(n_layer=12))


def test_tensorflow_checkpoint_generates_what_safetensors_does(tmp_path):
    same = write_model(tmp_path / "same", tiny_gpt2(n_layer=12), n_layer=12)
    texts = {gpt2_kvcache.main("the wind", model_size=folder.name, models_dir=folder.parent,
                               n_tokens_to_generate=8) for folder in (TF_CHECKPOINT, same)}
    assert len(texts) == 1


def test_model_with_more_ids_than_the_tokenizer_loads(folder):
    write_config(folder / "config.json", vocab_size=288)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_vocab=288))
    assert_exact(load(folder)[2], all_drawn(n_vocab=288))


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
    hparams = {"n_vocab": 2048, "n_ctx": 64, "n_embd": 256, "n_head": 8, "n_layer": 6}
    tensors = {n: (dtype, np.ones(s, stored)) for n, s in checkpoints.shapes(**hparams).items()}
    masks = {f"h.{i}.attn.bias": (dtype, np.ones((1, 1, 1024, 1024), stored)) for i in range(6)}
    write_safetensors(tmp_path / WEIGHTS, tensors | masks)
    command = [sys.executable, "-c", MEASURE, tmp_path / WEIGHTS, json.dumps(hparams)]
    taken = int(subprocess.run(command, cwd=Path(utils.__file__).parent, check=True,
                               capture_output=True).stdout)
    weights = 4 * sum(array.size for _, array in tensors.values())
    # One tensor, and what allocators keep: a second copy takes 10 MB at least, the masks 12.
    assert weights <= taken < weights + 5e6


@pytest.mark.parametrize("key, value", [
    ("model_type", "llama"), ("activation_function", "gelu"), ("activation_function", "relu"),
    ("layer_norm_epsilon", 1e-6), ("n_inner", 24), ("scale_attn_weights", False),
    ("scale_attn_by_inverse_layer_idx", True), ("n_head", 3), ("n_head", 0), ("n_head", "2"),
    ("n_head", ...), ("n_embd", 8.0), ("n_layer", None), ("n_layer", True), ("n_layer", 10**30)])
def test_config_that_cannot_be_run_is_refused_by_its_key(folder, key, value):
    write_config(folder / "config.json", **{key: value})
    assert key in refusal(folder / "config.json")


@pytest.mark.parametrize("content", [b"", b'{"n_embd": 8', b"null", b'{"\xff": 1}', b"[" * 100_000])
def test_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refusal(folder / "config.json")


def test_head_of_its_own_is_refused(folder):
    head = checkpoints.drawn("lm_head.weight", (280, 8))
    write_safetensors(folder / WEIGHTS, tiny_gpt2() | {"lm_head.weight": ("F32", head)})
    assert "lm_head.weight" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("n_layer", [2, 4])
def test_more_or_fewer_layers_than_configured_are_refused(folder, n_layer):
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_layer=n_layer))
    refusal(folder / WEIGHTS)


def test_tokenizer_with_more_ids_than_the_model_is_refused(folder):
    write_config(folder / "config.json", vocab_size=278)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_vocab=278))
    assert "278" in refusal(folder)


DATA = b"".join(array.tobytes() for _, array in tiny_gpt2().values())
HEADER = checkpoints.header_of(tiny_gpt2())
TEXT = json.dumps(HEADER).encode()


@pytest.mark.parametrize("change", [
    {"data_offsets": [8960, 9471]}, {"data_offsets": [8960]}, {"data_offsets": None},
    {"data_offsets": [-512, 0]}, {"data_offsets": [len(DATA), len(DATA) + 512]},
    {"data_offsets": ["8960", "9472"]}, {"shape": [8, 16]}, {"shape": [128]}, {"shape": [15, 8]},
    {"shape": None}, {"dtype": "F16"}, {"dtype": "F64"}, {"dtype": None},
    {"dtype": "F64", "data_offsets": [8960, 9984]},
    {"shape": [32, 8], "data_offsets": [8960, 9984]}])
def test_tensor_that_disagrees_with_itself_or_the_config_is_refused(folder, change):
    header = HEADER | {"wpe.weight": HEADER["wpe.weight"] | change}
    (folder / WEIGHTS).write_bytes(pack(header, DATA))
    refusal(folder / WEIGHTS)


@pytest.mark.parametrize("content", [
    b"", bytes(7), bytes(8), pack(TEXT, DATA)[:999], pack(TEXT, DATA)[:-1],
    pack(TEXT, DATA + b"\0"), pack(TEXT[:-9], DATA), pack(b"{}", DATA), pack(b"null", DATA),
    pack(b"[" * 100_000, DATA), pack(TEXT.replace(b"wpe", b"\xff"), DATA),
    b"\xff" * 8 + TEXT + DATA, len(TEXT).to_bytes(8, "big") + TEXT + DATA])
def test_file_that_is_damaged_or_cut_short_is_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    refusal(folder / WEIGHTS)


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-4]])
def test_tensorflow_data_of_another_size_is_refused(tmp_path, change):
    path = Path(shutil.copytree(TF_CHECKPOINT, tmp_path / "openai")) / TF_DATA
    path.write_bytes(change(path.read_bytes()))
    refusal(path)


@pytest.mark.parametrize("files", [
    ["model.gguf"], ["model.onnx"], ["pytorch_model.bin"], ["model.ckpt.index"],
    ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]])
def test_folder_without_weights_says_what_it_holds_and_is_left_alone(tmp_path, files):
    folder = write_model(tmp_path / "mine")
    (folder / WEIGHTS).unlink()
    for file in files:
        (folder / file).write_bytes(b"weights")
    before = sorted(folder.iterdir())
    message = refusal(folder)
    assert all(file in message for file in [*files, WEIGHTS, TF_DATA])
    assert sorted(folder.iterdir()) == before


def test_broken_link_to_the_weights_is_refused_as_that(tmp_path):
    folder = write_model(tmp_path / "mine")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "nothing")
    assert f"{WEIGHTS} (a broken link)" in refusal(folder)


def test_git_lfs_pointer_is_refused_as_that(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"
                                  f"oid sha256:{'0123456789abcdef' * 4}\nsize 548105171\n")
    assert "git lfs pull" in refusal(folder / WEIGHTS)


def test_unknown_model_is_told_which_ones_are_known(tmp_path):
    write_model(tmp_path / "mine")
    with pytest.raises(UserError) as raised:
        load(tmp_path / "125M")
    for name in ("125M", "mine", "124M", "355M", "774M", "1558M"):
        assert name in str(raised.value)


def test_empty_folder_is_told_what_it_lacks(tmp_path):
    (tmp_path / "mine").mkdir()
    assert WEIGHTS in refusal(tmp_path / "mine")


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", WEIGHTS])
def test_folder_in_the_place_of_a_file_is_refused(folder, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    refusal(folder / file, OSError)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt"])
def test_missing_file_beside_the_weights_is_named(folder, file):
    (folder / file).unlink()
    assert f"{file} is missing" in refusal(folder / file, OSError)


OTHER_FORMATS = {  # how a file of this kind begins
    "pytorch_model.bin": b"PK\x03\x04\x00\x00\x08\x08",
    "model.gguf": b"GGUF\x03\x00\x00\x00",
    "tf_model.h5": b"\x89HDF\r\n\x1a\n",
    "a header of 200 MB": (200_000_000).to_bytes(8, "little"),
}


@pytest.mark.parametrize("beginning", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_file_of_another_format_is_refused_without_reading_it(folder, beginning):
    with open(folder / WEIGHTS, "wb") as file:
        file.write(beginning)
        file.truncate(400_000_000)  # sparse
    tracemalloc.start()
    message = refusal(folder / WEIGHTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not a safetensors file" in message
    assert len(message) < 300 + len(str(folder)) and peak < 10_000_000


def test_vocabulary_in_utf_16_is_refused_in_brief(folder):
    (folder / "vocab.json").write_text(json.dumps({"a" * 5_000_000: 1}), "utf-16")
    assert len(refusal(folder / "vocab.json")) < 300 + len(str(folder))


@pytest.mark.parametrize("stored", ["F64", "F8_E4M3"])
def test_weights_of_another_type_are_told_as_that(folder, stored):
    header = HEADER | {"wpe.weight": HEADER["wpe.weight"] | {"dtype": stored}}
    (folder / WEIGHTS).write_bytes(pack(header, DATA))
    assert f"is stored as '{stored}'" in refusal(folder / WEIGHTS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.transformer."])
def test_names_with_another_prefix_are_told_as_that(folder, prefix):
    tensors = {prefix + name: tensor for name, tensor in tiny_gpt2().items()}
    write_safetensors(folder / WEIGHTS, tensors)
    assert f"is called '{prefix}w" in refusal(folder / WEIGHTS)


def test_an_adapter_is_told_as_that(folder):
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    write_safetensors(folder / WEIGHTS, {name: ("F32", np.zeros((4, 8), np.float32))})
    assert "adapter" in refusal(folder / WEIGHTS)


def test_weights_are_refused_before_any_is_read(folder, monkeypatch):
    tensors = tiny_gpt2()
    del tensors["ln_f.bias"]  # which is read last
    write_safetensors(folder / WEIGHTS, tensors)

    def no_reading(*_, **__):
        pytest.fail("weights are read")

    monkeypatch.setattr(np, "fromfile", no_reading)
    assert "ln_f.bias is missing" in refusal(folder / WEIGHTS)


def test_of_both_kinds_of_weights_safetensors_is_taken(tmp_path):
    folder = Path(shutil.copytree(TF_CHECKPOINT, tmp_path / "both"))
    write_model(tmp_path / "other")
    shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True)
    assert_exact(load(folder)[2], all_drawn())


def test_read_only_files_load(folder):
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    assert_exact(load(folder)[2], all_drawn())


def test_48_layers_load_and_100_000_are_refused_at_once(folder):
    write_config(folder / "config.json", n_layer=48)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_layer=48))
    assert_exact(load(folder)[2], all_drawn(n_layer=48))
    write_config(folder / "config.json", n_layer=100_000)
    assert "n_layer is 100000" in refusal(folder / "config.json")


def test_no_file_is_read_in_the_locales_encoding(folder):
    code = (f"import utils; utils.load_encoder_hparams_and_params({folder.name!r}, "
            f"{str(folder.parent)!r})")
    subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:utils",
         "-W", "error::EncodingWarning:encoder", "-c", code],
        cwd=Path(utils.__file__).parent, check=True)
