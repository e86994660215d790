"""Print what the four models cost in float32; multiply-adds: of a step at 1,024 tokens of context.

    python tests/bench/costs.py
"""
V, N, BLOCK = 50257, 1024, 128  # vocabulary, context, and gpt2.BLOCK
SIZES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280),
         "1558M": (48, 25, 1600)}  # n_layer, n_head, n_embd


def weight_bytes(n_layer, n_embd):
    """Of all weights: n_layer blocks, the last layer norm, wte and wpe."""
    return 4 * (n_layer * (12 * n_embd + 13) * n_embd + 2 * n_embd + (V + N) * n_embd)


def cache_bytes(n_tokens, n_layer, n_embd):
    """A key and a value of n_embd float32 numbers for each token in each layer."""
    return 2 * n_layer * n_embd * 4 * n_tokens


def multiply_adds(n_seq, n_past, n_layer, n_embd):
    """Of a step's matrix products: the weights', attention's two, and one position's logits."""
    ends = [min(i + BLOCK, n_seq) for i in range(0, n_seq, BLOCK)]
    scores = sum((end - i * BLOCK) * (n_past + end) for i, end in enumerate(ends))
    return n_layer * (12 * n_embd**2 * n_seq + 2 * n_embd * scores) + V * n_embd


if __name__ == "__main__":
    print("                                       weights  cache, kB  cache, MB  multiply-adds, G\n"
          "model  n_layer  n_head  n_embd  d_head      MB    a token   at 1,024   without   with")
    for name, (n_layer, n_head, n_embd) in SIZES.items():
        size = n_layer, n_embd
        print(f"{name:5} {n_layer:8} {n_head:7} {n_embd:7} {n_embd // n_head:7}"
              f" {weight_bytes(*size) / 1e6:7,.0f} {cache_bytes(1, *size) / 1e3:10.1f}"
              f" {cache_bytes(N, *size) / 1e6:10.1f} {multiply_adds(N, 0, *size) / 1e9:9,.1f}"
              f" {multiply_adds(1, N - 1, *size) / 1e9:6.2f}")
