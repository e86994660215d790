"""Checkpoint files: those that people have load exactly, all others are refused by name."""
import json
import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    HPARAMS,
    TF_CHECKPOINT,
    by_name,
    drawn,
    header_of,
    pack,
    shapes,
    tiny_gpt2,
    write_config,
    write_model,
    write_safetensors,
)

import gpt2
import utils
from utils import load_encoder_hparams_and_params, read_hparams, read_params

MODELS = Path(__file__).parent.parent / "models"
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def endpoint(monkeypatch):
    """A loopback port that nothing listens on, and where to download from: nothing here should."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(utils, "RETRIES", 0)
        yield url


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "tiny")


@pytest.fixture
def openai(tmp_path):
    return Path(shutil.copytree(TF_CHECKPOINT, tmp_path / "openai"))


def table(rows: dict) -> list:
    """For parametrize: {id: values}"""
    return [pytest.param(*(v if isinstance(v, tuple) else [v]), id=k) for k, v in rows.items()]


def load(folder):
    return load_encoder_hparams_and_params(folder.name, str(folder.parent))


def refusal(folder, file="") -> str:
    """The message of the ValueError with which a folder is refused. It names the file."""
    with pytest.raises(ValueError) as raised:
        load(folder)
    assert str(folder / file) in str(raised.value)
    return str(raised.value)


def assert_drawn(params, hparams=HPARAMS):
    """Every array is what was written under its name, in a form that NumPy computes on as it is."""
    arrays = by_name(params)
    assert arrays.keys() == shapes(**hparams).keys()
    for name, shape in shapes(**hparams).items():
        array = arrays[name]
        assert array.dtype == np.float32 and array.dtype.isnative
        assert array.flags.aligned and array.flags.c_contiguous
        np.testing.assert_array_equal(array, drawn(name, shape), err_msg=name)


# what people have


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_published_layout_loads_exactly(folder, prefix):
    n_ctx = HPARAMS["n_ctx"]
    mask = np.tri(n_ctx, dtype=np.float32)[None, None]
    tensors = {f"h.{i}.attn.bias": ("F32", mask) for i in range(HPARAMS["n_layer"])} | tiny_gpt2()
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    header_length = int.from_bytes((folder / WEIGHTS).read_bytes()[:8], "little")
    assert (8 + header_length) % 2 == 1
    assert_drawn(load(folder)[2])


@pytest.mark.parametrize("name, tensor", table({
    "tied head": ("lm_head.weight", tiny_gpt2()["wte.weight"]),
    "masked_bias": ("transformer.h.0.attn.masked_bias", ("F32", np.array(-1e4, np.float32))),
    "mask of bytes": ("h.0.attn.bias", ("U8", np.tri(16, dtype=np.uint8)[None, None])),
    "mask of bools": ("h.1.attn.bias", ("BOOL", np.tri(16, dtype=bool)[None, None])),
}))
@pytest.mark.parametrize("first", [True, False])
def test_tensor_besides_the_weights_does_no_harm(folder, name, tensor, first):
    extra = {name: tensor}
    tensors = extra | tiny_gpt2() if first else tiny_gpt2() | extra
    write_safetensors(folder / WEIGHTS, tensors)
    assert_drawn(load(folder)[2])


def test_tensors_may_stand_in_any_order(folder):
    write_safetensors(folder / WEIGHTS, dict(sorted(tiny_gpt2().items(), reverse=True)))
    assert_drawn(load(folder)[2])


@pytest.mark.parametrize("lengths", [{}, {"n_ctx": 16}, {"n_ctx": 16, "n_positions": None}])
def test_hparams_come_from_n_positions_or_n_ctx(folder, lengths):
    write_config(folder / "config.json", **lengths)
    assert read_hparams(folder / "config.json") == HPARAMS


def test_n_inner_may_be_spelled_out(folder):
    write_config(folder / "config.json", n_inner=4 * HPARAMS["n_embd"])
    assert load(folder)[1] == HPARAMS


def stored_as(folder, dtype, bits):
    """wte after loading a model that stores it as bits, [n_vocab * n_embd]."""
    hparams = HPARAMS | {"n_vocab": len(bits) // HPARAMS["n_embd"]}
    tensors = tiny_gpt2(**hparams)
    tensors["wte.weight"] = dtype, bits.reshape(-1, HPARAMS["n_embd"])
    write_safetensors(folder / WEIGHTS, tensors)
    return read_params(folder / WEIGHTS, hparams)["wte"]


def test_every_bf16_becomes_the_float32_with_the_same_upper_half(folder):
    bits = np.arange(2**16, dtype="<u2")
    wte = stored_as(folder, "BF16", bits)
    assert wte.dtype == np.float32 and wte.flags.aligned and wte.flags.c_contiguous
    np.testing.assert_array_equal(wte.view(np.uint32).ravel(), bits.astype(np.uint32) << 16)


def test_every_f16_becomes_the_float32_of_the_same_value(folder):
    bits = np.arange(2**16, dtype="<u2")
    wte = stored_as(folder, "F16", bits)
    assert wte.dtype == np.float32 and wte.flags.aligned and wte.flags.c_contiguous
    values = np.array(struct.unpack("<65536e", bits.tobytes()), np.float32)
    nan = np.isnan(values)
    np.testing.assert_array_equal(np.isnan(wte.ravel()), nan)
    np.testing.assert_array_equal(wte.ravel().view(np.uint32)[~nan], values.view(np.uint32)[~nan])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_whole_model_of_half_precision_loads(folder, dtype):
    halves = {}
    for name, (_, array) in tiny_gpt2().items():
        half = (array.view(np.uint32) >> 16).astype(np.uint16)
        halves[name] = dtype, half if dtype == "BF16" else array.astype(np.float16)
    write_safetensors(folder / WEIGHTS, halves)
    for name, array in by_name(load(folder)[2]).items():
        assert array.dtype == np.float32 and array.flags.aligned and array.flags.c_contiguous
        np.testing.assert_allclose(array, drawn(name, array.shape), rtol=2**-7, atol=2**-24)


def test_params_have_the_documented_shape(folder):
    def tree(params):
        if isinstance(params, dict):
            return {key: tree(value) for key, value in params.items()}
        return [tree(p) for p in params] if isinstance(params, list) else params.shape

    norm = {"g": (8,), "b": (8,)}
    block = {
        "attn": {"c_attn": {"w": (8, 24), "b": (24,)}, "c_proj": {"w": (8, 8), "b": (8,)}},
        "mlp": {"c_fc": {"w": (8, 32), "b": (32,)}, "c_proj": {"w": (32, 8), "b": (8,)}},
        "ln_1": norm,
        "ln_2": norm,
    }
    expected = {"wte": (280, 8), "wpe": (16, 8), "blocks": [block, block], "ln_f": norm}
    assert tree(load(folder)[2]) == expected


def test_model_that_comes_with_the_repository_has_its_parameters():
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(MODELS))
    assert hparams == {"n_vocab": 2048, "n_ctx": 512, "n_embd": 128, "n_head": 4, "n_layer": 4}
    assert sum(array.size for array in by_name(params).values()) == 1_121_024
    assert encoder.decode(encoder.encode("Once upon a time")) == "Once upon a time"


# OpenAI's TensorFlow checkpoint; make_tf_checkpoint.py wrote the one that is here


def test_tensorflow_checkpoint_loads_exactly(openai):
    encoder, hparams, params = load(openai)
    assert hparams == {**HPARAMS, "n_layer": 12}
    assert_drawn(params, hparams)
    assert encoder.decode(encoder.encode("a thing<|endoftext|>")) == "a thing<|endoftext|>"


def test_tensorflow_checkpoint_generates_what_safetensors_does(openai, tmp_path):
    other = write_model(tmp_path / "other", tiny_gpt2(n_layer=12), n_layer=12)
    ids, logits = [], []
    for folder in openai, other:
        encoder, hparams, params = load(folder)
        prompt = encoder.encode("the wind")
        ids.append(gpt2.generate(prompt, params, hparams["n_head"], 8))
        logits.append(gpt2.gpt2(prompt, params, hparams["n_head"]))
    assert ids[0] == ids[1]
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1]])
def test_tensorflow_checkpoint_of_another_size_is_refused(openai, change):
    path = openai / "model.ckpt.data-00000-of-00001"
    path.write_bytes(change(path.read_bytes()))
    refusal(openai, path.name)


def test_tensorflow_checkpoint_of_another_shape_is_refused(openai):
    path = openai / "hparams.json"
    path.write_text(path.read_text().replace('"n_ctx": 16', '"n_ctx": 17'))
    refusal(openai, "model.ckpt.data-00000-of-00001")


# models that can't be run


@pytest.mark.parametrize("key, value", [
    ("model_type", "llama"),
    ("activation_function", "relu"),
    ("activation_function", "gelu"),
    ("layer_norm_epsilon", 1e-6),
    ("n_inner", 3 * HPARAMS["n_embd"]),
    ("scale_attn_by_inverse_layer_idx", True),
    ("scale_attn_weights", False),
    ("n_head", 3),
])
def test_architecture_that_cannot_be_run_is_refused(folder, key, value):
    write_config(folder / "config.json", **{key: value})
    assert key in refusal(folder, "config.json")


def test_head_of_its_own_is_refused(folder):
    head = drawn("lm_head.weight", (280, 8))
    write_safetensors(folder / WEIGHTS, tiny_gpt2() | {"lm_head.weight": ("F32", head)})
    assert "lm_head.weight" in refusal(folder, WEIGHTS)


def test_more_layers_than_configured_are_refused(folder):
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_layer=3))
    assert "layers" in refusal(folder, WEIGHTS)


def test_fewer_layers_than_configured_are_refused(folder):
    tensors = tiny_gpt2(n_layer=1) | {"h.0.attn.bias": ("F32", np.zeros((1, 1, 99, 99), "f4"))}
    write_safetensors(folder / WEIGHTS, tensors)
    assert "h.1." in refusal(folder, WEIGHTS)


def test_tokenizer_with_more_ids_than_the_model_is_refused(folder):
    write_config(folder / "config.json", vocab_size=279)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_vocab=279))
    message = refusal(folder)
    assert "tokenizer" in message and "279" in message


def test_model_with_more_ids_than_the_tokenizer_loads(folder):
    write_config(folder / "config.json", vocab_size=288)
    write_safetensors(folder / WEIGHTS, tiny_gpt2(n_vocab=288))
    assert_drawn(load(folder)[2], HPARAMS | {"n_vocab": 288})


# folders that lack something


@pytest.mark.parametrize("files", [
    ["pytorch_model.bin"],
    ["tf_model.h5"],
    ["model.safetensors.index.json"],
    ["model.safetensors.index.json", "model-00001-of-00002.safetensors"],
    ["model.ckpt.index"],
])
@pytest.mark.parametrize("model_size", ["mine", "124M"])
def test_weights_in_another_format_are_refused_and_nothing_is_added(tmp_path, files, model_size):
    folder = write_model(tmp_path / model_size)
    (folder / WEIGHTS).unlink()
    for file in files:
        (folder / file).write_bytes(b"weights")
    before = sorted(folder.iterdir())
    assert "format" in refusal(folder)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("missing", ["config.json", "vocab.json", "merges.txt"])
@pytest.mark.parametrize("model_size", ["mine", "124M"])
def test_missing_file_is_named_and_not_downloaded(tmp_path, endpoint, missing, model_size):
    folder = write_model(tmp_path / model_size)
    (folder / missing).unlink()
    with pytest.raises((ValueError, OSError)) as raised:
        load(folder)
    assert missing in str(raised.value) and str(folder) in str(raised.value)
    assert endpoint not in str(raised.value)
    assert not (folder / missing).exists()


@pytest.mark.parametrize("missing", ["hparams.json", "encoder.json", "vocab.bpe"])
def test_missing_file_of_a_tensorflow_checkpoint_is_named(openai, missing):
    (openai / missing).unlink()
    with pytest.raises((ValueError, OSError)) as raised:
        load(openai)
    assert missing in str(raised.value) and str(openai) in str(raised.value)


def test_folder_without_weights_is_refused(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="no model 'tiny'"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", WEIGHTS])
def test_folder_in_the_place_of_a_file_is_refused(folder, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    refusal(folder)


@pytest.mark.parametrize("file", ["hparams.json", "model.ckpt.data-00000-of-00001"])
def test_folder_in_the_place_of_a_tensorflow_file_is_refused(openai, file):
    (openai / file).unlink()
    (openai / file).mkdir()
    refusal(openai, file)


# hostile files


@pytest.mark.parametrize("content", table({
    "empty": b"",
    "space": b" ",
    "cut": b'{"n_embd": 8',
    "list": b"[]",
    "number": b"8",
    "null": b"null",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "deep": b'{"a":' * 100_000,
    "long number": b'{"n_layer": ' + b"9" * 5000 + b"}",
    "key twice": b'{"n_layer": 2, "n_layer": 2}',
}))
@pytest.mark.parametrize("model, file", [("tiny", "config.json"), ("openai", "hparams.json")])
def test_damaged_config_is_refused(request, model, file, content):
    folder = request.getfixturevalue({"tiny": "folder"}.get(model, model))
    (folder / file).write_bytes(content)
    refusal(folder, file)


WRONG = [None, "12", 1.5, True, [], {}, -1, 0, 10**30]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_embd", "n_head", "n_layer"])
def test_wrong_size_in_config_is_refused(folder, key, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refusal(folder)


@pytest.mark.parametrize("key, value", [
    (key, value)
    for key in ("model_type", "activation_function", "layer_norm_epsilon", "n_inner",
                "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
    for value in WRONG
    if (key, value) not in [("n_inner", None), ("scale_attn_weights", True),
                            ("scale_attn_by_inverse_layer_idx", 0)]
])
def test_wrong_kind_of_architecture_in_config_is_refused(folder, key, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert key in refusal(folder, "config.json")


@pytest.mark.parametrize("token", ["<\ud800>", "", "\ud800"])
def test_token_that_is_no_text_is_refused(folder, token):
    path = folder / "vocab.json"
    path.write_text(path.read_text().replace('"<|endoftext|>"', json.dumps(token)))
    refusal(folder)


DATA = b"".join(array.tobytes() for _, array in tiny_gpt2().values())
HEADER = json.dumps(header_of(tiny_gpt2())).encode()
WPE = {"dtype": "F32", "shape": [16, 8], "data_offsets": [8960, 9472]}  # after wte, before h.0


def length(n: int) -> bytes:
    return n.to_bytes(8, "little") + HEADER + DATA


@pytest.mark.parametrize("content", table({
    "empty": b"",
    "7 bytes": pack(HEADER, DATA)[:7],
    "8 bytes": pack(HEADER, DATA)[:8],
    "length 0": length(0),
    "length 2**63": length(2**63),
    "length 2**64-1": length(2**64 - 1),
    "length one more than the file": length(len(HEADER + DATA) + 1),
    "length with data in it": length(len(HEADER) + 1),
    "length that cuts the header": length(len(HEADER) - 1),
    "big-endian length": len(HEADER).to_bytes(8, "big") + HEADER + DATA,
    "one byte more": pack(HEADER, DATA + b"\0"),
    "one byte fewer": pack(HEADER, DATA[:-1]),
    "no tensors": pack(b"{}", DATA),
    "deep lists": pack(b"[" * 100_000, DATA),
    "deep dicts": pack(b'{"a":' * 100_000, DATA),
    "deep metadata": pack(b'{"__metadata__": ' + b"[" * 100_000, DATA),
    "not UTF-8": pack(HEADER.replace(b"wpe", b"\xff\xfe\xfd"), DATA),
    "a list": pack(b"[" + HEADER + b"]", DATA),
    "a number": pack(b"12", DATA),
    "null": pack(b"null", DATA),
    "a text": pack(b'"wte.weight"', DATA),
    "key twice": pack(b'{"wpe.weight": ' + json.dumps(WPE).encode() + b"," + HEADER[1:], DATA),
    "key twice in a tensor": pack(HEADER.replace(b'{"dtype"', b'{"dtype": "F16", "dtype"'), DATA),
}))
def test_damaged_safetensors_is_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    refusal(folder, WEIGHTS)


def test_the_tables_above_damage_what_would_load(folder):
    (folder / WEIGHTS).write_bytes(pack(HEADER, DATA))
    assert json.loads(HEADER)["wpe.weight"] == WPE
    assert_drawn(load(folder)[2])


@pytest.mark.parametrize("change", [
    *({"data_offsets": offsets} for offsets in [
        [8959, 9471],  # overlaps wte
        [8961, 9473],
        [0, 512],
        [8960, 9471],  # leaves a gap
        [8964, 9472],
        [-512, 0],
        [9472, 8960],
        [8960, 8960],
        [len(DATA), len(DATA) + 512],
        [2**63, 2**63 + 512],
        [10**30, 10**30 + 512],
        [8960.0, 9472.0],
        [8960, 9472.0],
        [float("nan"), float("nan")],
        [8960, float("inf")],
        [False, 9472],
        ["8960", "9472"],
        [None, None],
        [[8960], [9472]],
        [8960, 9472, 9472],
        [8960],
        [],
        "89",
        {"begin": 8960, "end": 9472},
        None,
        8960,
    ]),
    *({"shape": shape} for shape in [
        [8, 16],  # right size, wrong shape
        [128],
        [1, 16, 8],
        [16, 7],
        [-16, -8],
        [-1, 8],
        [2**62, 8],
        [10**30, 10**30],
        [0, 8],
        [16, float("inf")],
        ["16", "8"],
        [],
        "16",
        128,
        None,
        {},
    ]),
    *({"dtype": dtype} for dtype in [
        "F16", "BF16",  # half as long
        "F64", "I32", "F8_E4M3", "f32", "", None, 32, True, [], {},
    ]),
    *({"shape": [2**k, 8], "data_offsets": [8960, 8960 + 2**(k + 5)]} for k in (3, 30, 62)),
])
def test_damaged_tensor_is_refused(folder, change):
    header = json.loads(HEADER) | {"wpe.weight": WPE | change}
    (folder / WEIGHTS).write_bytes(pack(header, DATA))
    refusal(folder, WEIGHTS)


@pytest.mark.parametrize("tensor", [None, [], "F32", 12, {}, *({k: WPE[k]} for k in WPE)])
def test_tensor_without_its_description_is_refused(folder, tensor):
    (folder / WEIGHTS).write_bytes(pack(json.loads(HEADER) | {"wpe.weight": tensor}, DATA))
    refusal(folder, WEIGHTS)


def test_gap_between_tensors_is_refused(folder):
    header = json.loads(HEADER)
    for name, tensor in header.items():
        if name != "wte.weight":
            tensor["data_offsets"] = [offset + 4 for offset in tensor["data_offsets"]]
    (folder / WEIGHTS).write_bytes(pack(header, DATA[:8960] + bytes(4) + DATA[8960:]))
    assert "gap" in refusal(folder, WEIGHTS)


def test_two_tensors_in_the_same_bytes_are_refused(folder):
    header = json.loads(HEADER) | {"h.0.attn.bias": WPE}
    (folder / WEIGHTS).write_bytes(pack(header, DATA))
    assert "overlap" in refusal(folder, WEIGHTS)


def test_tensor_with_and_without_prefix_is_refused(folder):
    twice = ("F32", drawn("twice", (16, 8)))
    write_safetensors(folder / WEIGHTS, tiny_gpt2() | {"transformer.wpe.weight": twice})
    assert "twice" in refusal(folder, WEIGHTS)
