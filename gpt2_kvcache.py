"""GPT-2 inference in plain NumPy, without a KV cache: every step runs the whole sequence again.

Read it beside gpt2_kvcache.py: `diff gpt2.py gpt2_kvcache.py` shows what a KV cache is.
The model: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
All arrays are float32. Scalars are Python floats: a NumPy float64 scalar would promote them.
"""
import math

import numpy as np
from tqdm import tqdm

CHUNK = 256
from utils import check_lengths, load_encoder_hparams_and_params, run


def gelu(x):
    """tanh form of x * Phi(x), any shape (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    # 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))), step by step in one array: a fresh
    # one for each step costs more than the arithmetic, and NumPy's x**3 far more than x * x * x
    y = x * x
    y *= 0.044715
    y += 1
    y *= x
    y *= math.sqrt(2 / math.pi)
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5
    return y


def softmax(x):
    """Weights over the last axis that sum to 1, any shape."""
    x = x - np.max(x, axis=-1, keepdims=True)  # the largest becomes 0, so exp cannot overflow
    np.exp(x, out=x)
    x /= np.sum(x, axis=-1, keepdims=True)
    return x


def layer_norm(x, g, b, eps: float = 1e-5):
    """Mean 0 and variance 1 over the last axis, then scale g and shift b (arXiv:1607.06450)."""
    x = x - np.mean(x, axis=-1, keepdims=True)
    x /= np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    x *= g
    x += b
    return x


def linear(x, w, b):
    """[n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    x = x @ w
    x += b
    return x


def ffn(x, c_fc, c_proj):
    """Position-wise feed-forward network: [n_seq, n_embd] -> [n_seq, n_embd]"""
    x = gelu(linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4*n_embd]
    return linear(x, **c_proj)  # [n_seq, 4*n_embd] -> [n_seq, n_embd]


def attention(q, k, v, mask):
    """Scaled dot-product attention of all heads at once (arXiv:1706.03762, section 3.2.1).

    q [n_head, n_q, d_head], k and v [n_head, n_k, d_head], mask [n_q, n_k]
    -> [n_head, n_q, d_head]
    """
    q = q / math.sqrt(q.shape[-1])  # here, not on the scores: fewer numbers to divide
    scores = q @ k.transpose(0, 2, 1)  # -> [n_head, n_q, n_k]
    scores += mask
    return softmax(scores) @ v  # -> [n_head, n_q, d_head]


def mha(x, c_attn, c_proj, n_head, mask, k_cache, v_cache):
    """Multi-head causal self-attention: [n_seq, n_embd] -> [n_seq, n_embd]"""
    n_seq, n_embd = x.shape
    x = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3*n_embd]
    x = x.reshape(n_seq, 3, n_head, n_embd // n_head)  # -> [n_seq, 3, n_head, d_head]
    q, k, v = x.transpose(1, 2, 0, 3)  # -> three of [n_head, n_seq, d_head]
    k_cache[:, -n_seq:], v_cache[:, -n_seq:] = k, v  # the new ones go after the past ones
    x = attention(q, k_cache, v_cache, mask)  # -> [n_head, n_seq, d_head]
    x = x.transpose(1, 0, 2).reshape(n_seq, n_embd)  # the heads side by side again
    return linear(x, **c_proj)  # [n_seq, n_embd] -> [n_seq, n_embd]


def transformer_block(x, attn, mlp, ln_1, ln_2, n_head, mask, **cache):
    """Pre-norm block with two residuals: [n_seq, n_embd] -> [n_seq, n_embd]"""
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head, mask=mask, **cache)
    x += ffn(layer_norm(x, **ln_2), **mlp)
    return x


def causal_mask(n_q, n_k):
    """0 where a query may look, -inf at later keys: [n_q, n_k], the queries being the last n_q."""
    return np.triu(np.full((n_q, n_k), -np.inf, dtype=np.float32), k=n_k - n_q + 1)


def kv_cache(params, n_head, n_ctx):
    """Room for the keys and values of n_ctx tokens in each layer; it holds those of n_past."""
    shape = len(params["blocks"]), n_head, n_ctx, params["wte"].shape[1] // n_head
    return {"n_past": 0, "k": np.empty(shape, np.float32), "v": np.empty(shape, np.float32)}


def gpt2(inputs, params, n_head, cache):
    """Token ids -> logits of the token that follows them: [n_seq] -> [n_vocab] float32."""
    n_past, n_k = cache["n_past"], cache["n_past"] + len(inputs)
    x = params["wte"][inputs] + params["wpe"][range(n_past, n_k)]  # [n_seq] -> [n_seq, n_embd]
    mask = causal_mask(len(inputs), n_k)
    for block, k, v in zip(params["blocks"], cache["k"][:, :, :n_k], cache["v"][:, :, :n_k]):
        x = transformer_block(x, **block, n_head=n_head, mask=mask, k_cache=k, v_cache=v)
    cache["n_past"] = n_k
    x = layer_norm(x[-1], **params["ln_f"])  # [n_embd]: the other positions' logits go unused
    return x @ params["wte"].T  # [n_embd] -> [n_vocab]


def generate(inputs, params, n_head, n_tokens_to_generate: int) -> list[int]:
    """The n_tokens_to_generate ids that follow the ids in inputs, each the likeliest (greedy).

    Raises ValueError when inputs is empty or all of it does not fit the context, len(wpe).
    """
    check_lengths(len(inputs), n_tokens_to_generate, n_ctx=len(params["wpe"]))
    ids = list(inputs)
    cache = kv_cache(params, n_head, len(ids) + n_tokens_to_generate - 1)
    for i in range(0, len(ids) - CHUNK, CHUNK):
        gpt2(ids[i : i + CHUNK], params, n_head, cache)
    for _ in tqdm(range(n_tokens_to_generate), "generating"):
        logits = gpt2(ids[cache["n_past"] :], params, n_head, cache)
        ids.append(int(np.argmax(logits)))
    return ids[len(inputs) :]


def main(prompt, n_tokens_to_generate=40, model_size="124M", models_dir="models"):
    """Continue a prompt with GPT-2, each new token being the likeliest one (greedy decoding).

    Args:
        prompt: the text to continue. One that begins with a hyphen is written --prompt="-x ...";
            an empty one starts a new document, from <|endoftext|>.
        n_tokens_to_generate: how many tokens to add; it does not stop early at <|endoftext|>.
        model_size: a folder in models_dir. 124M, 355M, 774M and 1558M are downloaded if missing;
            1M comes with this repository.
        models_dir: the folder that holds the models.
    """
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt or "<|endoftext|>")
    output_ids = generate(input_ids, params, hparams["n_head"], n_tokens_to_generate)
    return encoder.decode(output_ids)


if __name__ == "__main__":
    run(main)
