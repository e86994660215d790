"""Print, as Markdown, what one step costs at 1,024 tokens of context without and with a KV cache.

    python tests/costs.py
"""
N, V = 1024, 50257  # tokens in the context, and in the vocabulary
SIZES = {"124M": (12, 768), "355M": (24, 1024), "774M": (36, 1280), "1558M": (48, 1600)}


def multiply_adds(n_new: int, n: int, n_layer: int, n_embd: int) -> int:
    """Of a step that runs n_new tokens and ends at n: the weights, the attention, the logits."""
    return n_layer * (12 * n_embd**2 * n_new + 2 * n_embd * n_new * n) + V * n_embd


def weight_bytes(n_layer: int, n_embd: int) -> int:
    """float32 weights that every step reads: all but wpe, of which it reads a row a token."""
    return 4 * (n_layer * (12 * n_embd**2 + 13 * n_embd) + 2 * n_embd + V * n_embd)


def cache_bytes(n: int, n_layer: int, n_embd: int) -> int:
    """A key and a value of n_embd float32 numbers for each token in each layer."""
    return 2 * n_layer * n_embd * 4 * n


if __name__ == "__main__":
    print("| | multiply-adds without | with | ratio | weights read | cache a token | cache read |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, shape in SIZES.items():
        without, cached = multiply_adds(N, N, *shape), multiply_adds(1, N, *shape)
        print(f"| {name} | {without / 1e9:,.1f} G | {cached / 1e9:.3f} G | {without / cached:.0f} "
              f"| {weight_bytes(*shape) / 1e6:,.0f} MB | {cache_bytes(1, *shape) / 1e3:.1f} kB "
              f"| {cache_bytes(N, *shape) / 1e6:.0f} MB |")
