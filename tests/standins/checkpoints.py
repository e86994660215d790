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


def shapes(n_vocab, n_ctx, n_embd, n_layer, **_) -> dict[str, tuple[int, ...]]:
    """{name on the hub: shape} of a GPT-2."""
    layers = {"attn.c_attn": (n_embd, 3 * n_embd), "attn.c_proj": (n_embd, n_embd),
              "mlp.c_fc": (n_embd, 4 * n_embd), "mlp.c_proj": (4 * n_embd, n_embd),
              "ln_1": (n_embd,), "ln_2": (n_embd,)}
    layers = {f"h.{i}.{name}": shape for i in range(n_layer) for name, shape in layers.items()}
    arrays = {"wte.weight": (n_vocab, n_embd), "wpe.weight": (n_ctx, n_embd)}
    for name, shape in {**layers, "ln_f": (n_embd,)}.items():
        arrays |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
    return arrays


def drawn(name: str, shape) -> np.ndarray:
    """Random float32 values that belong to this name alone: a tensor in another's place shows."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def tiny_gpt2(**hparams) -> dict[str, tuple[str, np.ndarray]]:
    """{name: ("F32", drawn array)} of a GPT-2 of HPARAMS, for write_safetensors."""
    return {n: ("F32", drawn(n, s)) for n, s in shapes(**HPARAMS | hparams).items()}


def header_of(tensors) -> dict:
    end = 0
    return {name: {"dtype": dtype, "shape": [*array.shape],
                   "data_offsets": [end, end := end + array.nbytes]}
            for name, (dtype, array) in tensors.items()}


def pack(header, data: bytes) -> bytes:
    """A safetensors file. Its data starts at an odd offset, as in the published 124M."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    header += b" " * (len(header) % 2 == 0)
    return len(header).to_bytes(8, "little") + header + data


def write_safetensors(path: Path, tensors):
    """tensors: {name: (dtype, array of the bytes as stored)}"""
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.write_bytes(pack({"__metadata__": {"format": "pt"}} | header_of(tensors), data))


def write_config(path: Path, **changes):
    """What transformers writes, for HPARAMS; a change to ... takes the key out."""
    config = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "vocab_size": 280, "n_positions": 16, "n_embd": 8, "n_head": 2, "n_layer": 3}
    path.write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not ...}))


def write_model(folder: Path, tensors=None, **config) -> Path:
    """A model's folder, whole: config.json, vocab.json, merges.txt and model.safetensors."""
    folder.mkdir()
    write_config(folder / "config.json", **config)
    shutil.copy(TF_CHECKPOINT / "encoder.json", folder / "vocab.json")
    shutil.copy(TF_CHECKPOINT / "vocab.bpe", folder / "merges.txt")
    write_safetensors(folder / "model.safetensors", tensors or tiny_gpt2())
    return folder


def by_name(tree) -> dict[str, np.ndarray]:
    """{name on the hub: array} of the nested dicts that gpt2() takes."""
    if isinstance(tree, np.ndarray):
        return {"": tree}
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    return {f"{ON_THE_HUB.get(key, key)}.{name}".rstrip("."): array
            for key, branch in items for name, array in by_name(branch).items()}
