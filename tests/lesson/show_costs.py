"""Print what the four models and their caches cost in float32, at once.

    python tests/lesson/show_costs.py
"""
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]

from measuring import aligned, run_program

N_VOCAB = 50257
N_CTX = 1024
SIZES = {  # n_layer, n_embd
    "124M": (12, 768),
    "355M": (24, 1024),
    "774M": (36, 1280),
    "1558M": (48, 1600),
}


def weight_bytes(n_layer, n_embd):
    """Of all weights: n_layer blocks, the last layer norm, wte and wpe."""
    block = (12 * n_embd + 13) * n_embd
    return 4 * (n_layer * block + 2 * n_embd + (N_VOCAB + N_CTX) * n_embd)


def cache_bytes(n_tokens, n_layer, n_embd):
    """A key and a value of n_embd float32 numbers for each token in each layer."""
    return 2 * n_layer * n_embd * 4 * n_tokens


def n_scores(n_q, n_k):
    """How many scores attention computes for the last n_q of n_k tokens: in halves from 129 on."""
    if n_q > 128:
        h = n_q // 2
        return n_scores(n_q - h, n_k - h) + n_scores(h, n_k)
    return n_q * n_k


def multiply_adds(n_seq, n_past, n_layer, n_embd):
    """Of a step's matrix products: the weights', attention's two, and one position's logits."""
    weights = 12 * n_embd**2 * n_seq
    attention = 2 * n_embd * n_scores(n_seq, n_past + n_seq)
    return n_layer * (weights + attention) + N_VOCAB * n_embd


def main():
    table = [["", "", "", "", "cache of", "cache at", "multiply-adds", ""],
             ["", "", "", "", "1 token,", "1,024", "of a step at 1,024", ""],
             ["", "", "", "weights,", "", "tokens,", "tokens, billions:", ""],
             ["model", "n_layer", "n_embd", "MB", "kB", "MB", "without cache", "with"]]
    for name, size in SIZES.items():
        without, cached = multiply_adds(N_CTX, 0, *size), multiply_adds(1, N_CTX - 1, *size)
        table.append([name, *map(str, size), f"{weight_bytes(*size) / 1e6:,.0f}",
                      f"{cache_bytes(1, *size) / 1e3:.1f}",
                      f"{cache_bytes(N_CTX, *size) / 1e6:.1f}", f"{without / 1e9:,.1f}",
                      f"{cached / 1e9:.2f}"])
    print(aligned(table))


if __name__ == "__main__":
    run_program(main, __doc__)
