"""Print what five classic bugs of KV caches do to the output of models/1M.

    python tests/lesson/show_bugs.py

It takes two seconds. Each bug is planted in a copy of gpt2_kvcache.py by a
change of its text.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]

import numpy as np
from measuring import run_program

from utils import load_encoder_hparams_and_params

PROMPT = "Far away in the land where"
N_TOKENS = 7
WITHOUT = (ROOT / "gpt2.py").read_text("utf-8")
CACHED = (ROOT / "gpt2_kvcache.py").read_text("utf-8")

KEEP_KEYS = "layer_kv[0, :, n_past : n_past + n_seq] = k"
KEEP_VALUES = "layer_kv[1, :, n_past : n_past + n_seq] = v"
POSITIONS = "positions = range(n_past, n_past + len(inputs))"
FED = "kv_cache=kv_cache, n_past=n_past)"
MASKED = "scores[:, :, -n_q:] += mask"
ONE_SLOT_OFF = ("layer_kv[0, :, 0] = 0; layer_kv[0, :, n_past + 1 : n_past + n_seq + 1]"
                " = k[:, : layer_kv.shape[2] - n_past - 1]")
COPIES = [  # the bug, how many tokens of the prompt go in first, a text, and what takes its place
    ("none", 0, FED, FED),
    ("none", 2, FED, FED),
    ("positions from 0", 0, POSITIONS, "positions = range(len(inputs))"),
    ("keys one slot off", 0, KEEP_KEYS, ONE_SLOT_OFF),
    ("values forgotten", 0, KEEP_VALUES, KEEP_VALUES.replace("= v", "= 0 * v")),
    ("n_past stays at 1", 0, FED, "kv_cache=kv_cache, n_past=min(n_past, len(inputs)))"),
    ("mask on first columns", 0, MASKED, "scores[:, :, :n_q] += mask"),
    ("mask on first columns", 2, MASKED, "scores[:, :, :n_q] += mask"),
]


def run(source, ids, params, n_head, n_first=0):
    """The ids that source generates, and the logits; n_first tokens of the prompt go in first."""
    module = {"__name__": "copy"}
    exec(source, module)
    forward = module["gpt2"]
    logits = []

    def recorded(inputs, **cache):
        if n_first and cache["n_past"] == 0:
            forward(inputs[:n_first], **cache)
            inputs = inputs[n_first:]
            cache["n_past"] = n_first
        logits.append(forward(inputs, **cache))
        return logits[-1]

    module["gpt2"] = recorded
    return list(module["generate"](ids, params, n_head, N_TOKENS)), np.array(logits)


def row(bug, n_first, found, logits, right, expected, encoder):
    """What the table says about a copy that found these ids and logits."""
    wrong = np.flatnonzero(np.array(found) != right)
    n = wrong[0] + 1 if len(wrong) else None  # the first token that differs, from 1
    largest = np.abs(logits - expected)[:n].max()  # after that, the ids differ too
    off_by = f"{largest:.0f}" if largest > 1e-4 else "<1e-4"
    pieces = 2 if n_first else 1
    return f"{bug:21}  {pieces:6}  {n or '-':>8}  {off_by:>6} {encoder.decode(found)}"


def main():
    encoder, hparams, params = load_encoder_hparams_and_params("1M")
    n_head = hparams["n_head"]
    ids = encoder.encode(PROMPT)
    right, expected = run(WITHOUT, ids, params, n_head)

    print(f"bug                    pieces  wrong at  off by  {PROMPT} ...")
    for bug, n_first, old, new in COPIES:
        if CACHED.count(old) != 1:
            sys.exit(f"gpt2_kvcache.py should have {old!r} once")
        found, logits = run(CACHED.replace(old, new), ids, params, n_head, n_first)
        print(row(bug, n_first, found, logits, right, expected, encoder))

    print("\npieces: in how many parts the prompt is fed. wrong at: the first token that\n"
          "differs. off by: the largest difference of a logit, up to that token.")

    exact = params | {"wte": params["wte"].astype(np.float64)}  # and all that follows from it
    _, without = run(WITHOUT, ids, exact, n_head)
    _, cached = run(CACHED.replace("float32", "float64"), ids, exact, n_head, 2)
    largest = np.abs(without - cached).max()
    apart = "less than 1e-11" if largest < 1e-11 else f"{largest:.0e}"
    print(f"In float64 the logits of the two files are {apart} apart.")


if __name__ == "__main__":
    run_program(main, __doc__)
