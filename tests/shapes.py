"""Print the shapes inside attention in the first steps after a 4-token prompt, cached and not.

    python tests/shapes.py
"""
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402
from utils import load_encoder_hparams_and_params  # noqa: E402

PROMPT, N_STEPS = "Once upon a time", 3


def steps(module, inputs, params, n_head) -> list[tuple[int, ...]]:
    """(n_seq, q's, k's, v's and the scores' shape) of each step, as the first layer sees them."""
    shapes, attention = [], module.attention

    def recorded(q, k, v, mask):
        shapes.append((q.shape[1], q.shape, k.shape, v.shape, (len(q), *mask.shape)))
        return attention(q, k, v, mask)

    module.attention = recorded
    try:
        module.generate(inputs, params, n_head, N_STEPS)
    finally:
        module.attention = attention
    return shapes[:: len(params["blocks"])]


def main():
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(ROOT / "models"))
    inputs = encoder.encode(PROMPT)
    print(f"{PROMPT!r} is {len(inputs)} tokens; n_embd {hparams['n_embd']}, "
          f"n_head {hparams['n_head']}, d_head {hparams['n_embd'] // hparams['n_head']}\n")
    print("step  cache    input     q and new k, v  k, v in use  scores")
    without = steps(gpt2, inputs, params, hparams["n_head"])
    with_cache = steps(gpt2_kvcache, inputs, params, hparams["n_head"])
    for i, pair in enumerate(zip(without, with_cache), 1):
        for cache, (n_seq, q, k, v, scores) in zip(("without", "with"), pair):
            assert k == v  # and what c_attn gives has one q, one k and one v a row of the input
            rows = [n_seq, hparams["n_embd"]]
            print(f"{i:<4}  {cache:<7}  {rows!s:<8}  {[*q]!s:<14}  {[*k]!s:<11}  {[*scores]}")


if __name__ == "__main__":
    main()
