"""Print the shapes inside attention in the first steps after a 4-token prompt, and a causal mask.

    python tests/bench/shapes.py
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402
from utils import load_encoder_hparams_and_params  # noqa: E402

PROMPT, N_STEPS = "Once upon a time", 3


def record(module, name):
    """A list to which each later call of that function adds its arguments."""
    calls, function = [], getattr(module, name)
    setattr(module, name, lambda *args: calls.append(args) or function(*args))
    return calls


encoder, hparams, params = load_encoder_hparams_and_params("1M")
ids, n_embd, n_head = encoder.encode(PROMPT), hparams["n_embd"], hparams["n_head"]
print(f"{PROMPT!r} is {len(ids)} tokens; n_embd {n_embd}, n_head {n_head}, d_head "
      f"{n_embd // n_head}\n\nstep  cache    input     q and new k, v  k, v in use  scores")
lines = []
for cache, module in ("without", gpt2), ("with", gpt2_kvcache):
    attention, softmax = record(module, "attention"), record(module, "softmax")
    module.generate(ids, params, n_head, N_STEPS)
    for i in range(N_STEPS):
        (q, k, v), (scores,) = (calls[i * hparams["n_layer"]] for calls in (attention, softmax))
        x, q, k, scores = [q.shape[1], n_embd], [*q.shape], [*k.shape], [*scores.shape]
        lines.append(f"{i + 1:<4}  {cache:<7}  {x!s:<8}  {q!s:<14}  {k!s:<11}  {scores}")
print(*sorted(lines, key=lambda line: line[:4]), sep="\n")

print("\nThe mask of 3 new tokens after 5, as attention adds it to the scores:\n")
scores = record(gpt2, "softmax")
gpt2.attention(*(np.zeros((1, n, 1), np.float32) for n in (3, 8, 8)))
for row in scores[0][0][0]:
    print("".join(f"{x:6g}" for x in row))
