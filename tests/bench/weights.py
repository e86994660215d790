"""Random weights of the 124M model's shape, and the names that others give to them."""
import numpy as np

HPARAMS = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}


def random_params(n_vocab, n_ctx, n_embd, n_layer, **_):
    """Seeded, of standard deviation 0.02; what layer norms multiply by lies around 1."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return 0.02 * rng.standard_normal(shape, np.float32)

    def linear(n_in, n_out):
        return {"w": normal(n_in, n_out), "b": normal(n_out)}

    def norm():
        return {"g": 1 + normal(n_embd), "b": normal(n_embd)}

    def block():
        attn = {"c_attn": linear(n_embd, 3 * n_embd), "c_proj": linear(n_embd, n_embd)}
        mlp = {"c_fc": linear(n_embd, 4 * n_embd), "c_proj": linear(4 * n_embd, n_embd)}
        return {"attn": attn, "mlp": mlp, "ln_1": norm(), "ln_2": norm()}

    params = {"wte": normal(n_vocab, n_embd), "wpe": normal(n_ctx, n_embd),
              "blocks": [block() for _ in range(n_layer)], "ln_f": norm()}
    np.empty(2**25 - 2**16, np.uint8)  # as where utils.py loads: glibc keeps what is freed later
    return params


def by_name(tree, name="transformer"):
    """{name in transformers: array}, such as transformer.h.0.attn.c_attn.weight."""
    if isinstance(tree, np.ndarray):
        return {name: tree}
    names = {"blocks": "h", "wte": "wte.weight", "wpe": "wpe.weight", "w": "weight", "g": "weight",
             "b": "bias"}
    pairs = enumerate(tree) if isinstance(tree, list) else tree.items()
    return {full: array for key, part in pairs
            for full, array in by_name(part, f"{name}.{names.get(key, key)}").items()}
