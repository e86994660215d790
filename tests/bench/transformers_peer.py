"""What benchmark.py times of transformers: the same weights, on as many threads."""
import os
import time
from statistics import median

import numpy as np
from weights import by_name


def n_threads():
    """Those of the BLAS: what the environment says, or the cores that this process may use."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    said = (os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "MKL", "OMP"))
    return int(next(filter(None, said), len(cores)))


def load_transformers(params, hparams):
    """timed(ids, n_tokens, variant), or None where transformers isn't installed.

    It returns the new ids and the seconds that each took. A variant is the attention and the cache
    of a plain loop of model calls, or "generate": what users call.
    """
    try:
        import torch
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache
    except ImportError:
        return None
    torch.set_num_threads(n_threads())
    shape = {name: hparams[name] for name in ("n_embd", "n_head", "n_layer")}
    config = GPT2Config(vocab_size=hparams["n_vocab"], n_positions=hparams["n_ctx"], **shape,
                        bos_token_id=None, eos_token_id=None)
    model, ends = GPT2LMHeadModel(config).eval(), []
    weights = by_name(params) | {"lm_head.weight": params["wte"]}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    model.register_forward_hook(lambda *_: ends.append(time.perf_counter()))

    @torch.inference_mode()
    def timed(ids, n_tokens, variant):
        inputs, new, ends[:] = torch.tensor([ids]), [], [time.perf_counter()]
        if variant == "generate":
            model.set_attn_implementation("sdpa")
            new = model.generate(inputs, attention_mask=torch.ones_like(inputs),
                                 max_new_tokens=n_tokens, do_sample=False)[0, len(ids) :].tolist()
            return new, np.diff(ends).tolist()
        model.set_attn_implementation(variant[0])
        cache = (DynamicCache(config=config) if variant[1] == "DynamicCache" else
                 StaticCache(config, max_cache_len=len(ids) + n_tokens))
        for _ in range(n_tokens):
            logits = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            inputs = logits[:, -1].argmax(-1, keepdim=True)
            new.append(int(inputs))
        return new, np.diff(ends).tolist()

    return timed


def fastest_variants(timed, ids):
    """The variant that was fastest with the prompt, and the one with the tokens after it."""
    variants = [(attention, cache) for attention in ("sdpa", "eager")
                for cache in ("DynamicCache", "StaticCache")]
    took = {v: np.minimum(*(timed(ids, 8, v)[1] for _ in range(2))) for v in variants}
    return min(took, key=lambda v: took[v][0]), min(took, key=lambda v: median(took[v][1:]))
