"""Time gpt2_kvcache.py against llama.cpp at float32, with the same random weights.

    python tests/bench/llama_cpp_peer.py

Takes two minutes, and 0.5 GB for a temporary file. Needs gguf and llama-cpp-python.
"""
import tempfile
import time

import benchmark as bench
import numpy as np
from weights import HPARAMS, by_name, random_params

N_PROMPTS, N_NEW, ROUNDS = (10, 512, 960), 40, 5


def write_gguf(path, params, gguf):
    """A file for llama.cpp, which has its matrices the other way round, and no tokenizer."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_vocab_size(HPARAMS["n_vocab"])
    writer.add_context_length(HPARAMS["n_ctx"])
    writer.add_embedding_length(HPARAMS["n_embd"])
    writer.add_feed_forward_length(4 * HPARAMS["n_embd"])
    writer.add_block_count(HPARAMS["n_layer"])
    writer.add_head_count(HPARAMS["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, HPARAMS["n_layer"])
    for name, array in by_name(params).items():
        array = np.ascontiguousarray(array.T) if ".c_" in name and array.ndim == 2 else array
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def timed_llama(llama, ids, n_tokens):
    """What benchmark.timed_generate returns, of llama.cpp."""
    llama.reset()
    inputs, new, logits, ends = ids, [], [], [time.perf_counter()]
    for _ in range(n_tokens):
        llama.eval(inputs)
        logits.append(np.ctypeslib.as_array(llama._ctx.get_logits(), (HPARAMS["n_vocab"],)).copy())
        ends.append(time.perf_counter())
        inputs = [int(np.argmax(logits[-1]))]
        new += inputs
    return new, logits, np.diff(ends).tolist()


def main():
    try:
        import gguf
        import llama_cpp  # were this file named so, it would import itself
    except ImportError as error:
        return print(f"skipped: {error.name} isn't installed (see requirements.txt)")
    params, n_threads = random_params(**HPARAMS), bench.n_threads()
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        write_gguf(file.name, params, gguf)
        llama = llama_cpp.Llama(file.name, n_ctx=HPARAMS["n_ctx"], n_threads=n_threads,
                                n_threads_batch=n_threads, type_k=llama_cpp.GGML_TYPE_F32,
                                type_v=llama_cpp.GGML_TYPE_F32, verbose=False)
    ids = np.random.default_rng(0).integers(HPARAMS["n_vocab"], size=HPARAMS["n_ctx"]).tolist()
    found = {n: [] for n in N_PROMPTS}
    for n in N_PROMPTS * (1 + ROUNDS):  # one to warm up
        time.sleep(bench.SETTLE)
        theirs = timed_llama(llama, ids[:n], N_NEW)
        time.sleep(bench.SETTLE)
        ours = bench.timed_generate(bench.gpt2_kvcache, ids[:n], params, HPARAMS["n_head"], N_NEW)
        bench.check_same(f"llama.cpp, {n} tokens", theirs, ours, 2e-3)  # its gelu is from a table
        found[n].append((theirs[2], ours[2]))
    table = [["", "prompt", "llama.cpp, ms", "gpt2_kvcache.py, ms", "ratio"]]
    for name, of in ("step", bench.steps), ("prefill", bench.prefills):
        for n, rounds in found.items():
            theirs, ours = map(of, zip(*rounds[1:]))
            table.append([name, str(n), bench.told(theirs, 1e3), bench.told(ours, 1e3),
                          bench.ratio(theirs, ours)])
    print(f"{bench.machine()}, llama-cpp-python {llama_cpp.__version__}\n\n{bench.aligned(table)}")


if __name__ == "__main__":
    main()
