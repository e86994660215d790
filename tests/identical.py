"""Compare the logits of both files at every step of greedy decoding on seeded random prompts.

    python tests/identical.py            # models/1M; --model_size 124M where that is there
"""
import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402
from utils import load_encoder_hparams_and_params  # noqa: E402


def compare(params, n_head, n_prompts, n_tokens, seed=0):
    """(number of differing tokens, largest logit difference, smallest gap between the top two)."""
    n_ctx, n_vocab = len(params["wpe"]), len(params["wte"])
    rng = np.random.default_rng(seed)
    n_differing, difference, gap = 0, 0.0, np.inf
    for _ in range(n_prompts):
        ids = rng.integers(n_vocab, size=rng.integers(1, n_ctx - n_tokens + 1)).tolist()
        cache = gpt2_kvcache.kv_cache(params, n_head, len(ids) + n_tokens - 1)
        for _ in range(n_tokens):
            without = gpt2.gpt2(ids, params, n_head)
            cached = gpt2_kvcache.gpt2(ids[cache["n_past"] :], params, n_head, cache)
            n_differing += int(np.argmax(without) != np.argmax(cached))
            difference = max(difference, float(np.abs(without - cached).max()))
            second, first = np.partition(without, -2)[-2:]
            gap = min(gap, float(first - second))
            ids.append(int(np.argmax(without)))
    return n_differing, difference, gap


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_size", default="1M")
    parser.add_argument("--n_prompts", type=int, default=100)
    parser.add_argument("--n_tokens", type=int, default=3)
    args = parser.parse_args()
    _, hparams, params = load_encoder_hparams_and_params(args.model_size, str(ROOT / "models"))
    n_differing, difference, gap = compare(params, hparams["n_head"], args.n_prompts, args.n_tokens)
    n_all = args.n_prompts * args.n_tokens
    print(f"{args.n_prompts} prompts, {n_all} tokens: {n_differing} differ; "
          f"largest difference of a logit {difference:.1e}, smallest gap of the top two {gap:.1e}")
    sys.exit(n_differing > 0)
