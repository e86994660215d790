"""Print the shapes in attention, without and with a cache, and a causal mask.

    python tests/lesson/show_shapes.py
"""
import sys
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]

from measuring import run_program

import gpt2
import gpt2_kvcache
from utils import load_encoder_hparams_and_params

PROMPT = "Once upon a time there"
N_STEPS = 3
AXES = ["n_past", "n_seq", "x      [n_seq, n_embd]", "q      [n_head, n_seq, d_head]",
        "k, v   [n_head, n_k, d_head]", "scores [n_head, n_seq, n_k]"]


def recorded(module, name):
    """Each later call of that function adds its arguments to the list that is returned."""
    calls = []
    function = getattr(module, name)

    def call(*args):
        calls.append(args)
        return function(*args)

    mock.patch.object(module, name, call).start()
    return calls


def shape(lengths):
    return f"[{','.join(map(str, lengths))}]"


def shapes_of_steps(module, ids, params, hparams):
    """For each step the shapes in the first layer, in the order of AXES."""
    attention = recorded(module, "attention")
    softmax = recorded(module, "softmax")
    list(module.generate(ids, params, hparams["n_head"], N_STEPS))

    steps = []
    for i in range(0, len(attention), hparams["n_layer"]):
        q, k, _ = attention[i]
        n_seq, n_k = q.shape[1], k.shape[1]
        scores = softmax[i][0]
        steps.append([n_k - n_seq, n_seq, shape((n_seq, hparams["n_embd"])), shape(q.shape),
                      shape(k.shape), shape(scores.shape)])
    return steps


def print_table(without, cached):
    columns = [["step", "cache", *AXES], ["1", "both", *cached[0]]]
    for i in range(1, N_STEPS):
        columns.append([i + 1, "without", *without[i]])
        columns.append([i + 1, "with", *cached[i]])
    for name, *cells in zip(*columns):
        line = "".join(f" {cell!s:8}" for cell in cells)
        print(f"{name:30}{line}".rstrip())


def print_mask(n_q, n_k):
    n_past = n_k - n_q
    print(f"\nThe mask of {n_q} new tokens after {n_past}, as attention adds it to the scores:\n")
    softmax = recorded(gpt2, "softmax")
    q, k, v = (np.zeros((1, n, 1), np.float32) for n in (n_q, n_k, n_k))
    gpt2.attention(q, k, v)
    for row in softmax[0][0][0]:
        print("".join(f"{x:6g}" for x in row))


def main():
    encoder, hparams, params = load_encoder_hparams_and_params("1M")
    ids = encoder.encode(PROMPT)
    d_head = hparams["n_embd"] // hparams["n_head"]
    print(f"{PROMPT!r} is {len(ids)} tokens. n_embd {hparams['n_embd']}, n_head "
          f"{hparams['n_head']}, d_head {d_head}.\nn_k is n_past + n_seq.\n")
    print_table(shapes_of_steps(gpt2, ids, params, hparams),
                shapes_of_steps(gpt2_kvcache, ids, params, hparams))
    print_mask(3, 8)


if __name__ == "__main__":
    run_program(main, __doc__)
