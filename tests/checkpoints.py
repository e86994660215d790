"""What the tests share: a tiny GPT-2 whose every weight is known, and files that hold it."""
import json
import shutil
import zlib
from pathlib import Path

import numpy as np

TF_CHECKPOINT = Path(__file__).parent / "fixtures" / "tf-checkpoint"
HPARAMS = {"n_vocab": 280, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}


def shapes(n_vocab, n_ctx, n_embd, n_layer, **_) -> dict[str, tuple[int, ...]]:
    """{name on the hub: shape} of a GPT-2."""
    of_block = {
        "ln_1.weight": (n_embd,), "ln_1.bias": (n_embd,),
        "attn.c_attn.weight": (n_embd, 3 * n_embd), "attn.c_attn.bias": (3 * n_embd,),
        "attn.c_proj.weight": (n_embd, n_embd), "attn.c_proj.bias": (n_embd,),
        "ln_2.weight": (n_embd,), "ln_2.bias": (n_embd,),
        "mlp.c_fc.weight": (n_embd, 4 * n_embd), "mlp.c_fc.bias": (4 * n_embd,),
        "mlp.c_proj.weight": (4 * n_embd, n_embd), "mlp.c_proj.bias": (n_embd,),
    }
    blocks = {f"h.{i}.{name}": shape for i in range(n_layer) for name, shape in of_block.items()}
    return {"wte.weight": (n_vocab, n_embd), "wpe.weight": (n_ctx, n_embd), **blocks,
            "ln_f.weight": (n_embd,), "ln_f.bias": (n_embd,)}


def drawn(name: str, shape) -> np.ndarray:
    """Random float32 values that belong to this name alone: a tensor in another's place shows."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(shape, dtype=np.float32)


def tiny_gpt2(**hparams) -> dict[str, tuple[str, np.ndarray]]:
    """{name: ("F32", drawn array)} of a GPT-2 of HPARAMS, for write_safetensors."""
    return {n: ("F32", drawn(n, s)) for n, s in shapes(**{**HPARAMS, **hparams}).items()}


def header_of(tensors) -> dict:
    header, end = {}, 0
    for name, (dtype, array) in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": [*array.shape], "data_offsets": [begin, end]}
    return header


def pack(header, data: bytes) -> bytes:
    """A safetensors file. Its data starts at an odd offset, as in the published 124M."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    header += b" " * (len(header) % 2 == 0)
    return len(header).to_bytes(8, "little") + header + data


def write_safetensors(path: Path, tensors, metadata=None):
    """tensors: {name: (dtype, array of the bytes as stored)}"""
    header = {"__metadata__": metadata} if metadata else {}
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.write_bytes(pack(header | header_of(tensors), data))


def write_config(path: Path, **changes):
    """What transformers writes; a change to None takes the key out."""
    config = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "n_inner": None, "scale_attn_weights": True, "vocab_size": HPARAMS["n_vocab"],
              "n_positions": HPARAMS["n_ctx"], "n_embd": HPARAMS["n_embd"],
              "n_head": HPARAMS["n_head"], "n_layer": HPARAMS["n_layer"]} | changes
    left_out = {key for key, value in changes.items() if value is None}
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in left_out}))


def write_model(folder: Path, tensors=None, **config) -> Path:
    """A model's folder, whole: config.json, vocab.json, merges.txt and model.safetensors."""
    folder.mkdir()
    write_config(folder / "config.json", **config)
    shutil.copy(TF_CHECKPOINT / "encoder.json", folder / "vocab.json")
    shutil.copy(TF_CHECKPOINT / "vocab.bpe", folder / "merges.txt")
    write_safetensors(folder / "model.safetensors", tensors or tiny_gpt2(), {"format": "pt"})
    return folder


def by_name(params: dict) -> dict[str, np.ndarray]:
    """{name on the hub: array} of the nested dicts that gpt2() takes."""
    def walk(name, tree):
        if isinstance(tree, np.ndarray):
            yield name, tree
        else:
            for key, branch in enumerate(tree) if isinstance(tree, list) else tree.items():
                key = {"blocks": "h", "w": "weight", "g": "weight", "b": "bias",
                       "wte": "wte.weight", "wpe": "wpe.weight"}.get(key, key)
                yield from walk(f"{name}.{key}" if name else key, branch)

    return dict(walk("", params))
