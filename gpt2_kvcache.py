"""GPT-2 in plain NumPy, with a KV cache: for each new token, that token alone runs.

Read gpt2.py and gpt2_kvcache.py side by side: their diff is what a KV cache adds.
The model is that of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
Every array is float32, and scalars are Python's: NumPy's own (np.sqrt(2)) would make it float64.
"""
import math

import numpy as np
from tqdm import tqdm

from utils import check_lengths, load_encoder_hparams_and_params, run

CHUNK = 256  # prompt tokens that go through at once: their scores [n_head, CHUNK, n_k] stay small


def gelu(x):
    """tanh form of x * Phi(x), any shape (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    # 0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))), step by step in one array: a new
    # one for each step would cost more than the arithmetic, and NumPy's x**3 more still
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
    x = x - x.max(axis=-1, keepdims=True)  # the largest becomes 0, so exp cannot overflow
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def layer_norm(x, g, b, eps: float = 1e-5):
    """Mean 0 and variance 1 over the last axis, then scale g and shift b (arXiv:1607.06450)."""
    x = x - x.mean(axis=-1, keepdims=True)
    x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    x *= g
    x += b
    return x


def linear(x, w, b):
    """x @ w + b: [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    x = x @ w
    x += b
    return x


def ffn(x, c_fc, c_proj):
    """Feed-forward network, each position by itself: [n_seq, n_embd] -> [n_seq, n_embd]"""
    x = gelu(linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4*n_embd]
    return linear(x, **c_proj)  # [n_seq, 4*n_embd] -> [n_seq, n_embd]


def attention(q, k, v, mask):
    """Scaled dot-product attention, all heads in one go (arXiv:1706.03762, section 3.2.1).

    q [n_head, n_q, d_head], k and v [n_head, n_k, d_head], mask [n_q, n_k]
    -> [n_head, n_q, d_head]
    """
    q = q / math.sqrt(q.shape[-1])  # the same as dividing the scores, which are more
    scores = q @ k.transpose(0, 2, 1)  # -> [n_head, n_q, n_k]
    scores += mask
    return softmax(scores) @ v  # -> [n_head, n_q, d_head]


def mha(x, c_attn, c_proj, n_head, mask, k_cache, v_cache):
    """Multi-head causal self-attention: [n_seq, n_embd] -> [n_seq, n_embd]"""
    n_seq, n_embd = x.shape
    x = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3*n_embd]
    x = x.reshape(n_seq, 3, n_head, n_embd // n_head)  # -> [n_seq, 3, n_head, d_head]
    q, k, v = x.transpose(1, 2, 0, 3)  # -> three of [n_head, n_seq, d_head]
    k_cache[:, -n_seq:], v_cache[:, -n_seq:] = k, v  # [n_head, n_k, d_head], the new ones last
    x = attention(q, k_cache, v_cache, mask)  # -> [n_head, n_seq, d_head]
    x = x.transpose(1, 0, 2).reshape(n_seq, n_embd)  # the heads side by side again
    return linear(x, **c_proj)  # [n_seq, n_embd] -> [n_seq, n_embd]


def transformer_block(x, attn, mlp, ln_1, ln_2, n_head, mask, **cache):
    """Pre-norm block with two residuals: [n_seq, n_embd] -> [n_seq, n_embd]"""
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head, mask=mask, **cache)
    x += ffn(layer_norm(x, **ln_2), **mlp)
    return x


def causal_mask(n_q, n_k):
    """[n_q, n_k]: 0 where a query may look, -inf at keys after it. The queries are the last n_q."""
    return np.triu(np.full((n_q, n_k), -np.inf, dtype=np.float32), k=n_k - n_q + 1)


def kv_cache(params: dict, n_head: int, n_tokens: int) -> dict:
    """Empty k and v [n_layer, n_head, n_tokens, d_head], float32, and n_past: how many are in."""
    shape = len(params["blocks"]), n_head, n_tokens, params["wte"].shape[1] // n_head
    return {"n_past": 0, "k": np.empty(shape, np.float32), "v": np.empty(shape, np.float32)}


def gpt2(inputs: list[int], params: dict, n_head: int, cache: dict):
    """Token ids [n_seq] -> logits of the token that comes next [n_vocab], float32."""
    n_seq, n_past = len(inputs), cache["n_past"]  # the new tokens, and those before them
    n_k = n_past + n_seq
    x = params["wte"][inputs] + params["wpe"][range(n_past, n_k)]  # [n_seq] -> [n_seq, n_embd]
    mask = causal_mask(n_seq, n_k)
    for block, k, v in zip(params["blocks"], cache["k"][:, :, :n_k], cache["v"][:, :, :n_k]):
        x = transformer_block(x, **block, n_head=n_head, mask=mask, k_cache=k, v_cache=v)
    cache["n_past"] = n_k
    x = layer_norm(x[-1], **params["ln_f"])  # only the last position's logits are of use
    return x @ params["wte"].T  # [n_embd] -> [n_vocab]


def generate(inputs: list[int], params: dict, n_head: int, n_tokens_to_generate: int) -> list[int]:
    """The n_tokens_to_generate ids that continue inputs, each the likeliest one (greedy).

    Raises ValueError if inputs is empty, or too long for the context with what is to follow it.
    """
    check_lengths(len(inputs), n_tokens_to_generate, n_ctx=len(params["wpe"]))
    ids = list(inputs)
    cache = kv_cache(params, n_head, len(ids) + n_tokens_to_generate - 1)  # the last never runs
    for i in range(0, len(ids) - CHUNK, CHUNK):  # a long prompt's prefill, up to its last chunk
        gpt2(ids[i : i + CHUNK], params, n_head, cache)
    for _ in tqdm(range(n_tokens_to_generate), "generating"):
        logits = gpt2(ids[cache["n_past"] :], params, n_head, cache)  # what it does not hold yet
        ids.append(int(np.argmax(logits)))
    return ids[len(inputs) :]


def main(prompt, n_tokens_to_generate=40, model_size="124M", models_dir="models"):
    """Print the text with which GPT-2 continues a prompt, each token being the likeliest (greedy).

    Args:
        prompt: The text to continue. If it begins with a hyphen, write --prompt="-like this".
            If it is empty, a new document begins, with <|endoftext|>.
        n_tokens_to_generate: How many tokens to add. It does not stop early at <|endoftext|>.
        model_size: The model's folder in models_dir. 1M comes with this repository; 124M, 355M,
            774M and 1558M are downloaded when they are missing; any other must be there.
        models_dir: The folder that holds the models.
    """
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt or "<|endoftext|>")
    output_ids = generate(input_ids, params, hparams["n_head"], n_tokens_to_generate)
    return encoder.decode(output_ids)


if __name__ == "__main__":
    run(main)
