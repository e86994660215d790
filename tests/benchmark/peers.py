"""What benchmark.py times besides the two files: transformers, llama.cpp, picoGPT. Prints nothing.

Each returns {name: timed}; ImportError if it isn't installed. timed(ids, n_tokens) returns a Run:
greedy, without logits. They get the nested dicts of gpt2(). transformers is called as of version
5.24: before, the argument cache was past_key_values.
"""
import contextlib
import runpy
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import numpy as np
from checkpoints import by_name
from machine import n_threads
from measuring import Run, clocked

LOOP = "loop:"  # how the names of transformers' variants begin


def transformers(params, hparams):
    """Plain loops over the model, one for each kind of attention and cache; and generate()."""
    import torch
    from transformers import DynamicCache, StaticCache

    torch.set_num_threads(n_threads())
    model = torch_model(params, hparams)

    def growing_cache(config, max_cache_len):
        return DynamicCache(config=config)

    peers = {}
    for attention in "sdpa", "eager":
        for cache, make_cache in ("growing", growing_cache), ("static", StaticCache):
            name = f"{LOOP} {attention}, {cache} cache"
            peers[name] = partial(torch_loop, model, attention, make_cache)
    return peers | {"transformers, generate()": partial(torch_generate, model)}


def torch_model(params, hparams):
    """transformers' GPT-2 with these weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {name: hparams[name] for name in ("n_embd", "n_head", "n_layer", "n_inner")}
    config = GPT2Config(vocab_size=hparams["n_vocab"], n_positions=hparams["n_ctx"], **shape,
                        bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    named = {f"transformer.{name}": array for name, array in by_name(params).items()}
    named["lm_head.weight"] = params["wte"]
    model.load_state_dict({name: torch.from_numpy(array) for name, array in named.items()})
    return model


def torch_loop(model, attention, make_cache, ids, n_tokens):
    """The Run of a plain loop over the model."""
    import torch

    def steps():
        inputs = torch.tensor([ids])
        cache = make_cache(config=model.config, max_cache_len=len(ids) + n_tokens)
        for _ in range(n_tokens):
            logits = model(inputs, cache=cache, use_cache=True, logits_to_keep=1).logits
            inputs = logits[:, -1].argmax(-1, keepdim=True)
            yield int(inputs)

    model.set_attn_implementation(attention)
    with torch.inference_mode():
        new, seconds = clocked(steps())
    return Run(new, None, seconds)


def torch_generate(model, ids, n_tokens):
    """The Run of transformers' own generate()."""
    import torch

    ends = []
    model.set_attn_implementation("sdpa")
    hook = model.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
    with hook, torch.inference_mode():
        inputs = torch.tensor([ids])
        start = time.perf_counter()
        out = model.generate(inputs, attention_mask=torch.ones_like(inputs),
                             max_new_tokens=n_tokens, do_sample=False)
    return Run(out[0, len(ids) :].tolist(), None, np.diff([start, *ends]).tolist())


def llama_cpp(params, hparams):
    """llama.cpp with float32 weights and a float32 cache. Writes 0.5 GB to a temporary file."""
    import gguf
    from llama_cpp import GGML_TYPE_F32, Llama

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/random.gguf"
        write_gguf(path, params, hparams, gguf)
        llama = Llama(path, n_ctx=hparams["n_ctx"], n_threads=n_threads(), use_mmap=False,
                      n_threads_batch=n_threads(), type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32,
                      verbose=False)

    def steps(inputs, n_tokens):
        llama.reset()
        for _ in range(n_tokens):
            llama.eval(inputs)
            logits = np.ctypeslib.as_array(llama._ctx.get_logits(), (hparams["n_vocab"],))
            inputs = [int(np.argmax(logits))]
            yield inputs[0]

    def timed(ids, n_tokens):
        new, seconds = clocked(steps(ids, n_tokens))
        return Run(new, None, seconds)

    return {"llama.cpp, float32": timed}


def write_gguf(path, params, hparams, gguf):
    """A file for llama.cpp, which has its matrices the other way round, and no tokenizer."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_vocab_size(hparams["n_vocab"])
    writer.add_context_length(hparams["n_ctx"])
    writer.add_embedding_length(hparams["n_embd"])
    writer.add_feed_forward_length(hparams["n_inner"])
    writer.add_block_count(hparams["n_layer"])
    writer.add_head_count(hparams["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, hparams["n_layer"])
    for name, array in by_name(params).items():
        is_matrix_of_a_layer = ".c_" in name and array.ndim == 2
        array = np.ascontiguousarray(array.T) if is_matrix_of_a_layer else array
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def picogpt(folder, params, hparams):
    """A checkout of picoGPT or a fork of it, by the name of its folder: gpt2.generate, as it is.

    It imports tqdm's bar for its loop over the steps. In the bar's place there is a clock.
    """
    folder = Path(folder).resolve()
    module = runpy.run_path(str(folder / "gpt2.py"))

    def timed(ids, n_tokens):
        ends = [time.perf_counter()]

        def clock(steps, *_, **__):
            for step in steps:
                yield step
                ends.append(time.perf_counter())

        with mock.patch("tqdm.tqdm", clock):
            new = module["generate"](list(ids), params, hparams["n_head"], n_tokens)
        return Run([int(i) for i in new], None, np.diff(ends).tolist())

    return {folder.name: timed}


def row_by_row(tree):
    """The same dicts with each matrix in memory as picoGPT's own loader leaves it."""
    if isinstance(tree, dict):
        return {key: row_by_row(part) for key, part in tree.items()}
    if isinstance(tree, list):
        return [row_by_row(part) for part in tree]
    return np.ascontiguousarray(tree)


def load(params, hparams, picogpt_folders):
    """{name: timed} of all, the names of the picoGPTs, and a line for each that is left out."""
    peers, picogpts, lines = {}, {}, []
    for name, load_peer in ("llama.cpp", llama_cpp), ("transformers", transformers):
        try:
            peers |= load_peer(params, hparams)
        except ImportError as error:
            lines.append(f"{name} is left out: {error.name} isn't installed.")
    by_rows = row_by_row(params) if picogpt_folders else None
    for folder in picogpt_folders:
        picogpts |= picogpt(folder, by_rows, hparams)
    if not picogpts:
        lines.append("picoGPT is left out: --picogpt DIR would time a checkout of it.")
    return peers | picogpts, set(picogpts), lines


def versions():
    """Of what can be timed and is installed: "torch 2.13.0, transformers 5.24.0"."""
    installed = []
    for name in "torch", "transformers", "llama-cpp-python":
        with contextlib.suppress(PackageNotFoundError):
            installed.append(f"{name} {version(name)}")
    return ", ".join(installed)
