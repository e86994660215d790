"""Compare the logits of both files at every step of greedy decoding on seeded random prompts.

    python tests/bench/identical.py    # models/1M; --model_size 124M where that is there
"""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402
from utils import load_encoder_hparams_and_params  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--model_size", default="1M")
parser.add_argument("--n_prompts", type=int, default=100)
parser.add_argument("--n_tokens", type=int, default=3, help="of each prompt's continuation")
args = parser.parse_args()
_, hparams, params = load_encoder_hparams_and_params(args.model_size)
rng, n_head = np.random.default_rng(0), hparams["n_head"]
n_differing, difference, gap = 0, 0, np.inf
for _ in range(args.n_prompts):
    n, n_past = rng.integers(1, hparams["n_ctx"] - args.n_tokens + 1), 0
    ids = rng.integers(hparams["n_vocab"], size=n).tolist()
    kv_cache = gpt2_kvcache.empty_kv_cache(params, n_head, n + args.n_tokens)
    for _ in range(args.n_tokens):
        without = gpt2.gpt2(ids, **params, n_head=n_head)
        cached = gpt2_kvcache.gpt2(ids[n_past:], **params, n_head=n_head, kv_cache=kv_cache,
                                   n_past=n_past)
        second, first = np.partition(without, -2)[-2:]
        n_differing += int(np.argmax(without) != np.argmax(cached))
        difference = max(difference, np.abs(without - cached).max())
        gap = min(gap, first - second)
        n_past = len(ids)
        ids.append(int(np.argmax(without)))
print(f"prompts                          {args.n_prompts:>7}\n"
      f"tokens                           {args.n_prompts * args.n_tokens:>7}\n"
      f"tokens that differ               {n_differing:>7}\n"
      f"largest difference of a logit    {difference:>7.1e}\n"
      f"smallest gap of the top two      {gap:>7.1e}")
sys.exit(n_differing > 0)
