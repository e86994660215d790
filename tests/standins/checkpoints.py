"""What the tests share: a tiny GPT-2 whose every weight is known, and files that hold it."""
import json
import shutil
import zlib
from pathlib import Path

import numpy as np

TF_CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "tf-checkpoint"
HPARAMS = {"n_vocab": 280, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 3}  # d_head is 4
ON_THE_HUB = {"blocks": "h", "w": "weight", "g": "weight", "b": "bias",
              "wte": "wte.weight", "wpe": "wpe.weight"}


def shapes(n_vocab, n_ctx, n_embd, n_layer, n_inner=None, **_):
    """{name on the hub: shape} of a GPT-2."""
    n_inner = n_inner or 4 * n_embd
    layer = {"attn.c_attn": (n_embd, 3 * n_embd), "attn.c_proj": (n_embd, n_embd),
             "mlp.c_fc": (n_embd, n_inner), "mlp.c_proj": (n_inner, n_embd),
             "ln_1": (n_embd,), "ln_2": (n_embd,)}
    layers = {f"h.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()}
    found = {"wte.weight": (n_vocab, n_embd), "wpe.weight": (n_ctx, n_embd)}
    for name, shape in (layers | {"ln_f": (n_embd,)}).items():
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[-1:]
    return found


def drawn(name, shape):
    """Random float32 values that belong to this name alone: a tensor in another's place shows."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def tiny_gpt2(**hparams):
    """{name: ("F32", drawn array)} of a GPT-2 of HPARAMS, as write_model takes it."""
    return {n: ("F32", drawn(n, s)) for n, s in shapes(**HPARAMS | hparams).items()}


def pack(header, data):
    """A safetensors file. Its data starts at an odd offset, as in the published 124M."""
    header = json.dumps(header).encode()
    header += b" " * (len(header) % 2 == 0)
    return len(header).to_bytes(8, "little") + header + data


def header_and_data(tensors):
    """What pack() takes. tensors: {name: (dtype, array of the bytes as stored)}"""
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()
    for name, (dtype, array) in tensors.items():
        begin = len(data)
        data += array.tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, len(data)]}
    return header, data


def write_config(path, **changes):
    """What transformers writes, for HPARAMS; a change to ... takes the key out."""
    config = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "vocab_size": 280, "n_positions": 16, "n_embd": 8, "n_head": 2, "n_layer": 3}
    path.write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not ...}))


def write_model(folder, tensors=None, **config):
    """A model's folder, whole: config.json, vocab.json, merges.txt and model.safetensors."""
    folder.mkdir()
    write_config(folder / "config.json", **config)
    shutil.copy(TF_CHECKPOINT / "encoder.json", folder / "vocab.json")
    shutil.copy(TF_CHECKPOINT / "vocab.bpe", folder / "merges.txt")
    whole = pack(*header_and_data(tensors or tiny_gpt2()))
    (folder / "model.safetensors").write_bytes(whole)
    return folder


def by_name(tree):
    """{name on the hub: array} of the nested dicts that gpt2() takes."""
    if isinstance(tree, np.ndarray):
        return {"": tree}
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    return {f"{ON_THE_HUB.get(key, key)}.{name}".rstrip("."): array
            for key, branch in items for name, array in by_name(branch).items()}
