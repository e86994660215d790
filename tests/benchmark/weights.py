"""Random weights in the 124M model's shape. Prints nothing."""
import numpy as np

from utils import by_columns, keep_freed_memory, nest

HPARAMS = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
           "n_inner": 3072}  # 124M


def random_params(**hparams):
    """The nested dicts that gpt2() takes, seeded, and in memory as utils.py loads them.

    The standard deviation is 0.02, as when GPT-2 is trained anew. Layer norms multiply by about 1.
    """
    rng = np.random.default_rng(0)

    def draw(name, shape, order="C"):
        array = rng.standard_normal(shape, np.float32)
        array *= 0.02
        if "ln_" in name and name.endswith("weight"):
            array += 1
        return by_columns(array) if order == "F" else array

    keep_freed_memory()
    return nest(draw, **hparams)
