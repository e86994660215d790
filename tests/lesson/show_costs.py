"""Print what the four models and their caches cost in float32, at once.

    python tests/lesson/show_costs.py

The multiply-adds are those of a step at 1,024 tokens of context, without and with a cache.
"""
N_VOCAB = 50257
N_CTX = 1024
SIZES = {  # n_layer, n_head, n_embd
    "124M": (12, 12, 768),
    "355M": (24, 16, 1024),
    "774M": (36, 20, 1280),
    "1558M": (48, 25, 1600),
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
    print("                         weights    cache, kB    cache, MB     multiply-adds, billions\n"
          "model  n_layer  n_embd        MB      a token     at 1,024     without cache     with")
    for name, (n_layer, _, n_embd) in SIZES.items():
        size = n_layer, n_embd
        print(f"{name:5} {n_layer:8} {n_embd:7} {weight_bytes(*size) / 1e6:9,.0f}"
              f" {cache_bytes(1, *size) / 1e3:12.1f} {cache_bytes(N_CTX, *size) / 1e6:12.1f}"
              f" {multiply_adds(N_CTX, 0, *size) / 1e9:17,.1f}"
              f" {multiply_adds(1, N_CTX - 1, *size) / 1e9:8.2f}")


if __name__ == "__main__":
    main()
