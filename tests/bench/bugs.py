"""Plant five classic bugs of KV caches in copies of gpt2_kvcache.py, and print what comes of each.

    python tests/bench/bugs.py
"""
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from utils import load_encoder_hparams_and_params  # noqa: E402

PROMPT, N_TOKENS = "Far away in the land where", 8
WITHOUT, CACHED = ((ROOT / name).read_text("utf-8") for name in ("gpt2.py", "gpt2_kvcache.py"))
WRITE = "layer_kv[:, :, range(n_past, n_past + n_seq)] = k, v"
COPIES = [  # the bug, how many tokens of the prompt go in first, a text, and what takes its place
    ("none: the file as it is", 0, WRITE, WRITE),
    ("none: the file as it is", 2, WRITE, WRITE),
    ("position 0 for each new token", 0, "range(n_past, n_past + len(", "range(0, 0 + len("),
    ("keys written one slot off", 0, WRITE, "layer_kv[0, :, 0], layer_kv[0, :, n_past + 1 :]"
     "[:, :n_seq], layer_kv[1, :, n_past:][:, :n_seq] = 0, k, v"),  # 0: not whatever is there
    ("values forgotten", 0, WRITE, WRITE.replace("k, v", "k, 0 * v")),
    ("n_past not advanced", 0, "cache, n_past=n_past)", "cache, n_past=min(n_past, len(inputs)))"),
    ("mask on the first columns", 0, "scores[:, :, first + i :] +=", "scores[:, :, : j - i] +="),
    ("mask on the first columns", 2, "scores[:, :, first + i :] +=", "scores[:, :, : j - i] +="),
]


def run(source, params, n_first=0):
    """The ids that source generates, and the logits; n_first tokens of the prompt go in first."""
    module, logits = {"__name__": "copy"}, []
    exec(source, module)

    def recorded(inputs, gpt2=module["gpt2"], **cache):
        if n_first and cache["n_past"] == 0:
            gpt2(inputs[:n_first], **cache)
            inputs, cache["n_past"] = inputs[n_first:], n_first
        logits.append(gpt2(inputs, **cache))
        return logits[-1]

    module["gpt2"] = recorded
    return module["generate"](ids, params, hparams["n_head"], N_TOKENS), np.array(logits)


encoder, hparams, params = load_encoder_hparams_and_params("1M")
ids = encoder.encode(PROMPT)
right, expected = run(WITHOUT, params)
print(f"bug {'':25}  pieces  first wrong  logits off  {PROMPT} ...")
for bug, n_first, old, new in COPIES:
    assert CACHED.count(old) == 1, f"gpt2_kvcache.py should have {old!r} once"
    found, logits = run(CACHED.replace(old, new), params, n_first)
    n = next((i + 1 for i in range(N_TOKENS) if found[i] != right[i]), None)
    off = np.abs(logits - expected)[:n].max()  # after that, the ids differ too
    off = f"{off:.0f}" if off > 1e-4 else "below 1e-4"
    print(f"{bug:29}  {1 + bool(n_first):6}  {n or '-':>11}  {off:>10} {encoder.decode(found)}")
exact = params | {"wte": params["wte"].astype(np.float64)}  # and all that follows from it
off = np.abs(run(WITHOUT, exact)[1] - run(CACHED.replace("float32", "float64"), exact, 2)[1]).max()
print(f"\nIn float64 the logits of the two files are {'below 1e-11' if off < 1e-11 else off} apart")
