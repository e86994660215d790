"""GPT-2 in plain NumPy, with a KV cache. The diff of gpt2.py and gpt2_kvcache.py is the lesson.

Model: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Every array is
float32; scalars are Python's, as NumPy's (np.sqrt(2)) make float64. In-place operators (y += b)
change new arrays only.
"""
import numpy as np
from tqdm import tqdm

from utils import check_inputs, load_encoder_hparams_and_params, run

BLOCK = 128  # queries that attention takes at a time, so that their scores fit in the CPU's cache
CAUSAL_MASK = np.triu(np.full((BLOCK, BLOCK), -np.inf, np.float32), k=1)  # row i: -inf after i


def gelu(x):
    """0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3))) with c = sqrt(2/pi) (arXiv:1606.08415)."""
    c = (2 / np.pi) ** 0.5
    y = c * 0.044715 * x * x  # not x**3: NumPy takes far longer for it
    y += c
    y *= x  # now c * (x + 0.044715 * x^3)
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5
    return y


def softmax(x):
    """exp(x), divided by its sum over the last axis."""
    y = x - x.max(axis=-1, keepdims=True)  # the largest becomes 0, so that exp cannot overflow
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def layer_norm(x, g, b, eps=1e-5):
    """Mean 0 and variance 1 over the last axis, times g, gamma, plus b, beta (arXiv:1607.06450)."""
    y = x - x.mean(axis=-1, keepdims=True)
    y /= np.sqrt((y * y).mean(axis=-1, keepdims=True) + eps)  # the root of the variance
    return y * g + b


def linear(x, w, b):
    """x @ w + b: [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    y = x @ w
    y += b
    return y


def ffn(x, c_fc, c_proj):
    """Feed-forward network, each position by itself: [n_seq, n_embd] -> [n_seq, n_embd]"""
    return linear(gelu(linear(x, **c_fc)), **c_proj)  # by way of [n_seq, 4*n_embd]


def attention(q, k, v):
    """Causal scaled dot-product attention, all heads at once (arXiv:1706.03762, section 3.2.1).

    q [n_head, n_q, d_head] belongs to the last n_q of the n_k positions of k and v
    [n_head, n_k, d_head], and each query sees the keys up to its own -> [n_head, n_q, d_head]
    """
    n_q, d_head, first = q.shape[1], q.shape[2], k.shape[1] - q.shape[1]  # q's first position
    x = np.empty_like(q)
    for i in range(0, n_q, BLOCK):  # a block of queries, against the keys up to the block's end
        j = min(i + BLOCK, n_q)
        scores = (q[:, i:j] / d_head**0.5) @ k[:, : first + j].transpose(0, 2, 1)
        scores[:, :, first + i :] += CAUSAL_MASK[: j - i, : j - i]  # all keys before are visible
        x[:, i:j] = softmax(scores) @ v[:, : first + j]  # [n_head, j - i, first + j] @ v
    return x


def mha(x, c_attn, c_proj, n_head, layer_kv, n_past):
    """Multi-head causal self-attention: [n_seq, n_embd] -> [n_seq, n_embd]"""
    n_seq, n_embd = x.shape
    x = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3*n_embd]
    qkv = x.reshape(n_seq, 3, n_head, n_embd // n_head)  # -> [n_seq, 3, n_head, d_head]
    q, k, v = qkv.transpose(1, 2, 0, 3)  # -> three of [n_head, n_seq, d_head]
    layer_kv[:, :, range(n_past, n_past + n_seq)] = k, v  # no room: IndexError
    k, v = layer_kv[:, :, : n_past + n_seq]  # -> two of [n_head, n_past + n_seq, d_head]
    x = attention(q, k, v)  # -> [n_head, n_seq, d_head]
    x = x.transpose(1, 0, 2).reshape(n_seq, n_embd)  # the heads side by side again
    return linear(x, **c_proj)  # [n_seq, n_embd] -> [n_seq, n_embd]


def transformer_block(x, attn, mlp, ln_1, ln_2, n_head, layer_kv, n_past):
    """Pre-norm block with two residuals: [n_seq, n_embd] -> [n_seq, n_embd]"""
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head, layer_kv=layer_kv, n_past=n_past)
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def empty_kv_cache(params, n_head, n_tokens):
    """[n_layer, 2, n_head, n_tokens, d_head] float32: room for a key and a value of each token."""
    d_head = params["wte"].shape[1] // n_head
    return np.empty((len(params["blocks"]), 2, n_head, n_tokens, d_head), dtype=np.float32)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, kv_cache, n_past):
    """Token ids [n_seq] -> float32 logits of the token that comes next [n_vocab]"""
    positions = range(n_past, n_past + len(inputs))  # a slice would silently stop at n_ctx
    x = wte[inputs] + wpe[positions]  # [n_seq] -> [n_seq, n_embd]
    for block, layer_kv in list(zip(blocks, kv_cache, strict=True)):  # list: checks, then writes
        x = transformer_block(x, **block, n_head=n_head, layer_kv=layer_kv, n_past=n_past)
    x = layer_norm(x[-1], **ln_f)  # only the last position's logits are of use
    return x @ wte.T  # [n_embd] -> [n_vocab]


def generate(inputs, params, n_head, n_tokens_to_generate):
    """The ids that continue inputs, each the likeliest (greedy). ValueError if these don't fit."""
    check_inputs(inputs, n_tokens_to_generate, n_vocab=len(params["wte"]), n_ctx=len(params["wpe"]))
    ids = list(inputs)
    kv_cache = empty_kv_cache(params, n_head, len(ids) + n_tokens_to_generate)
    n_past = 0  # how many tokens kv_cache holds
    for _ in tqdm(range(n_tokens_to_generate), "generating", disable=None):
        logits = gpt2(ids[n_past:], **params, n_head=n_head, kv_cache=kv_cache, n_past=n_past)
        n_past = len(ids)
        ids.append(int(np.argmax(logits)))
    return ids[len(inputs) :]


def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None):
    """Print how GPT-2 continues a prompt, each new token being the likeliest one (greedy decoding).

    Args:
        prompt: The text to continue, in quotes. If it is empty, a new document begins.
        n_tokens_to_generate: How many tokens to add.
        model_size: A folder in models_dir; 124M, 355M, 774M and 1558M are downloaded if missing.
        models_dir: The folder that holds the models; if not given, models/ beside this file.
    """
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt) or encoder.start
    return encoder.decode(generate(input_ids, params, hparams["n_head"], n_tokens_to_generate))


if __name__ == "__main__":
    run(main)
