"""GPT-2 in plain NumPy: gpt2.py without a KV cache, gpt2_kvcache.py with one. Diff them.

A KV cache keeps the keys and values of all tokens so far, for every layer, so that only the newest
token has to run. Only gpt2_kvcache.py has one: an array, made in generate(), written and read in
mha(). gpt2.py runs the whole text again for each new token.

Model: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Its weights have
OpenAI's names: wte and wpe are the token and position embeddings, with a row for each token of the
vocabulary and for each position; c_attn, c_fc and c_proj are linear layers with a matrix w and a
bias b; ln_1, ln_2 and ln_f are layer norms with a gain g and a bias b. They are in nested dicts,
and ** hands a dict's entries on as arguments:

    params["blocks"][0]["attn"]["c_attn"] = {"w": ..., "b": ...}
    linear(x, **c_attn)  # is linear(x, w=..., b=...)

In shapes, n_seq counts the tokens that run, n_embd is the width of a token's row, and d_head =
n_embd / n_head is the width of one attention head. Every array is float32. Scalars are Python's
own, because NumPy's are float64 (np.sqrt(2), for one) and would turn the arrays into float64.
"""
import numpy as np

from utils import check_inputs, load_encoder_hparams_and_params, run


def gelu(x):
    """GPT-2's activation: near 0 for negative x, near x for positive (arXiv:1606.08415).

    The exact gelu needs the error function, which NumPy lacks. This is its approximation by tanh;
    0.044715 fits best.
    """
    inner = (2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)  # NumPy is far slower with x**3
    return 0.5 * x * (1 + np.tanh(inner))


def softmax(x):
    """Turns each row of scores into shares that sum to 1. A larger score gets a larger share."""
    exp_x = np.exp(x - x.max(axis=-1, keepdims=True))  # minus the largest: exp cannot overflow
    exp_x /= exp_x.sum(axis=-1, keepdims=True)
    return exp_x


def layer_norm(x, g, b, eps=1e-5):
    """Brings each row to mean 0 and variance 1, then times g, plus b (arXiv:1607.06450).

    So rows have the same scale in every layer, however much has been added to them.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * g + b


def linear(x, w, b):
    """[n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]"""
    return x @ w + b


def ffn(x, c_fc, c_proj):
    """Feed-forward network, each token by itself: [n_seq, n_embd] -> [n_seq, n_embd]"""
    # c_fc ("fully connected") makes the rows four times as wide, c_proj brings them back.
    hidden = gelu(linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4*n_embd]
    return linear(hidden, **c_proj)  # [n_seq, 4*n_embd] -> [n_seq, n_embd]


def attention(q, k, v):
    """Causal scaled dot-product attention, all heads at once (arXiv:1706.03762, section 3.2.1).

    k and v [n_head, n_k, d_head] are the keys and values of n_k tokens. q [n_head, n_q, d_head]
    are the queries of the last n_q of these: query i belongs to token n_k - n_q + i.
    Returns [n_head, n_q, d_head].
    """
    n_q, d_head = q.shape[1:]

    # Each query times each key. Longer vectors give larger sums, so divide by sqrt(d_head).
    scores = (q / d_head**0.5) @ k.transpose(0, 2, 1)  # -> [n_head, n_q, n_k]

    # Causal: no query sees a later token. Only the last n_q tokens can be later than a query.
    mask = np.triu(np.full((n_q, n_q), -np.inf, np.float32), k=1)  # -inf above the diagonal
    scores[:, :, -n_q:] += mask

    return softmax(scores) @ v  # [n_head, n_q, n_k] @ [n_head, n_k, d_head]


def attention_in_halves(q, k, v):
    """The same as attention, only faster for many queries. Skip it at first reading.

    The first half of the queries sees no key of the second half, so those keys are left out.
    """
    n_q = q.shape[1]
    if n_q <= 128:
        return attention(q, k, v)

    h = n_q // 2
    first = attention_in_halves(q[:, :-h], k[:, :-h], v[:, :-h])
    second = attention_in_halves(q[:, -h:], k, v)
    return np.concatenate([first, second], axis=1)


def mha(x, c_attn, c_proj, n_head, layer_kv, n_past):
    """Multi-head causal self-attention: [n_seq, n_embd] -> [n_seq, n_embd]

    Each head has queries, keys and values of its own, and so looks for something different.
    x has the new tokens only. layer_kv [2, n_head, n_tokens, d_head] gets their keys and values.
    """
    n_seq, n_embd = x.shape

    # c_attn makes the query, key and value of each token, for all heads.
    qkv = linear(x, **c_attn)  # [n_seq, n_embd] -> [n_seq, 3*n_embd]
    qkv = qkv.reshape(n_seq, 3, n_head, n_embd // n_head)  # -> [n_seq, 3, n_head, d_head]
    q, k, v = qkv.transpose(1, 2, 0, 3)  # -> three of [n_head, n_seq, d_head]

    layer_kv[0, :, n_past : n_past + n_seq] = k  # keep the new keys
    layer_kv[1, :, n_past : n_past + n_seq] = v  # keep the new values
    k, v = layer_kv[:, :, : n_past + n_seq]  # all so far: [n_head, n_past + n_seq, d_head]

    # The same as attention(q, k, v), only faster.
    heads = attention_in_halves(q, k, v)  # -> [n_head, n_seq, d_head]

    # The heads are put side by side again, and c_proj mixes them.
    heads = heads.transpose(1, 0, 2).reshape(n_seq, n_embd)  # -> [n_seq, n_embd]
    return linear(heads, **c_proj)  # [n_seq, n_embd] -> [n_seq, n_embd]


def transformer_block(x, attn, mlp, ln_1, ln_2, n_head, layer_kv, n_past):
    """One layer: [n_seq, n_embd] -> [n_seq, n_embd]

    Attention, then the feed-forward network. x is the residual stream, which runs through all
    layers: each part reads it by way of a layer norm, and adds to it what it finds.
    """
    normed = layer_norm(x, **ln_1)
    x = x + mha(normed, **attn, n_head=n_head, layer_kv=layer_kv, n_past=n_past)

    normed = layer_norm(x, **ln_2)
    return x + ffn(normed, **mlp)


def empty_kv_cache(params, n_head, n_tokens):
    """Slots for the keys and values of n_tokens: [n_layer, 2, n_head, n_tokens, d_head]"""
    d_head = params["wte"].shape[1] // n_head
    # Not zeros, since mha writes a slot before it reads it.
    return np.empty((len(params["blocks"]), 2, n_head, n_tokens, d_head), np.float32)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, kv_cache, n_past):
    """Token ids [n_seq] -> float32 logits [n_vocab], a score for each token that may come next.

    inputs are the new ids only. kv_cache holds n_past tokens, and gets the new ones. An n_past
    beyond what was written goes unnoticed: garbage is read.
    An id or a position that is not there is an IndexError, no id at all a ValueError.
    """
    if len(inputs) == 0:
        raise ValueError("inputs is empty: the model needs at least one token id")
    if min(inputs) < 0:  # NumPy would count it from the end
        raise IndexError(f"{min(inputs)} is not a token id")
    if not 0 <= n_past <= kv_cache.shape[3] - len(inputs):
        raise IndexError(f"no slots {n_past}:{n_past + len(inputs)} in kv_cache {kv_cache.shape}")

    # The row of wte for each id, plus the row of wpe for its position. The positions are a range,
    # since a slice of wpe would silently stop at its last row.
    positions = range(n_past, n_past + len(inputs))
    x = wte[inputs] + wpe[positions]  # [n_seq] -> [n_seq, n_embd]

    for block, layer_kv in zip(blocks, kv_cache, strict=True):  # layer_kv: a view, not a copy
        x = transformer_block(x, **block, n_head=n_head, layer_kv=layer_kv, n_past=n_past)

    # The last token's row says what comes next: times the row of wte of a token in the vocabulary,
    # it gives that token's logit.
    x = layer_norm(x[-1], **ln_f)  # [n_seq, n_embd] -> [n_embd]
    return x @ wte.T  # [n_embd] @ [n_embd, n_vocab] -> [n_vocab]


def generate(inputs, params, n_head, n_tokens_to_generate):
    """Yields the ids that continue inputs, each the likeliest (greedy), as soon as it is chosen.

    ValueError, when the first is asked for, if inputs or n_tokens_to_generate cannot be used.
    """
    check_inputs(inputs, n_tokens_to_generate, n_vocab=len(params["wte"]), n_ctx=len(params["wpe"]))
    ids = list(inputs)
    # A slot for each token that runs: all but the last new one, which is only chosen.
    kv_cache = empty_kv_cache(params, n_head, len(ids) + n_tokens_to_generate - 1)
    n_past = 0  # how many tokens are in kv_cache

    for _ in range(n_tokens_to_generate):
        logits = gpt2(ids[n_past:], **params, n_head=n_head, kv_cache=kv_cache, n_past=n_past)
        n_past = len(ids)  # these have run; the id that is chosen next has not yet
        ids.append(int(np.argmax(logits)))
        yield ids[-1]


def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None):
    """Continue a prompt with GPT-2, always by the likeliest token (greedy decoding).

    From Python, this returns an iterator over pieces of text, as they are chosen.

    Args:
        prompt: The text to continue, in quotes, or - to read standard input.
            If it is empty, a new document begins.
        n_tokens_to_generate: The most tokens to add; the text may end earlier.
        model_size: A folder in models_dir. 1M is there; 124M, 355M, 774M and
            1558M are downloaded.
        models_dir: The models' folder; if not given, models/ beside this file.
    """
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt) or encoder.start
    output_ids = generate(input_ids, params, hparams["n_head"], n_tokens_to_generate)
    return encoder.decode_stream(output_ids)


if __name__ == "__main__":
    run(main)
