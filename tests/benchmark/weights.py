"""Random weights for a benchmark, and the names that others give to them. Prints nothing."""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from utils import by_columns, keep_freed_memory

HPARAMS = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}  # 124M
ON_THE_HUB = {"blocks": "h", "wte": "wte.weight", "wpe": "wpe.weight", "w": "weight",
              "g": "weight", "b": "bias"}


def random_params(n_vocab, n_ctx, n_embd, n_layer, **_):
    """The nested dicts that gpt2() takes, seeded, and in memory as utils.py loads them.

    The standard deviation is 0.02, as when GPT-2 is trained anew. Layer norms multiply by about 1.
    """
    rng = np.random.default_rng(0)

    def normal(*shape):
        return 0.02 * rng.standard_normal(shape, np.float32)

    def linear(n_in, n_out):
        return {"w": by_columns(normal(n_in, n_out)), "b": normal(n_out)}

    def norm():
        return {"g": 1 + normal(n_embd), "b": normal(n_embd)}

    def block():
        attn = {"c_attn": linear(n_embd, 3 * n_embd), "c_proj": linear(n_embd, n_embd)}
        mlp = {"c_fc": linear(n_embd, 4 * n_embd), "c_proj": linear(4 * n_embd, n_embd)}
        return {"attn": attn, "mlp": mlp, "ln_1": norm(), "ln_2": norm()}

    wte, wpe = normal(n_vocab, n_embd), normal(n_ctx, n_embd)
    blocks = [block() for _ in range(n_layer)]
    keep_freed_memory()
    return {"wte": wte, "wpe": wpe, "blocks": blocks, "ln_f": norm()}


def by_name(tree):
    """{name: array} of the nested dicts that gpt2() takes, with the bare names of the hub's files.

    Such as wte.weight, h.0.attn.c_attn.weight, h.0.ln_1.bias, ln_f.weight. transformers puts
    "transformer." before each. The arrays are the dicts' own, not copies.
    """
    named = {}
    for key, part in enumerate(tree) if isinstance(tree, list) else tree.items():
        name = ON_THE_HUB.get(key, str(key))
        if isinstance(part, np.ndarray):
            named[name] = part
        else:
            named |= {f"{name}.{rest}": array for rest, array in by_name(part).items()}
    return named


def n_parameters(params):
    """How many numbers the model is made of."""
    return sum(array.size for array in by_name(params).values())
