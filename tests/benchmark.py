"""Measure gpt2.py against gpt2_kvcache.py, against this machine's memory and against transformers.

    python tests/benchmark.py                    # 124M; random weights if models/124M is absent
    python tests/benchmark.py --model_size 1M    # or any other folder in models_dir

Prints Markdown and draws tests/benchmark.svg. Without tests/requirements-benchmark.txt it leaves
out the drawing and transformers. Figures are seconds and bytes until they are printed.
"""
import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from unittest import mock

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from checkpoints import by_name, header_of, pack, shapes, write_config  # noqa: E402
from costs import SIZES, cache_bytes  # noqa: E402

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402
from utils import load_encoder_hparams_and_params  # noqa: E402

N_PROMPTS = (10, 128, 512, 960)  # tokens
N_TOKENS = 40  # to generate from each
CONTEXTS = (0, 10, 25, 50, 100, 200, 300, 400, 512, 640, 768, 896, 1023)  # of the drawing
BUDGET = 220.0  # seconds, after which no further round begins
SLOW = 4.0  # seconds: where N_TOKENS uncached tokens would take more, three of them are run
VARIANTS = [("sdpa", "DynamicCache", None), ("sdpa", "DynamicCache", gpt2_kvcache.CHUNK),
            ("sdpa", "StaticCache", None), ("eager", "DynamicCache", None),
            ("eager", "StaticCache", None)]  # of transformers: attention, cache, chunk of a prefill
SETTLE = 0.3  # seconds between NumPy and torch: for 0.1 the one's idle threads still slow the other


class Differs(Exception):
    """Two ways to compute the same gave different results, so no figure means anything."""


# ---- The model ----


@contextlib.contextmanager
def models_or_random(model_size: str, models_dir: str):
    """models_dir, or for a published model that isn't in it a folder with a random one."""
    if model_size not in SIZES or any((Path(models_dir) / model_size).glob("model.*")):
        yield models_dir
        return
    n_layer, n_embd = SIZES[model_size]
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder) / model_size, n_vocab=50257, n_ctx=1024, n_embd=n_embd,
                     n_head=n_embd // 64, n_layer=n_layer)
        yield folder


def write_random(folder: Path, **hparams):
    """Seeded weights of standard deviation 0.02, layer norms' g 1; the vocabulary is GPT-2's."""
    shutil.copytree(ROOT / "tests" / "gpt2-vocab", folder)
    write_config(folder / "config.json", vocab_size=hparams["n_vocab"],
                 n_positions=hparams["n_ctx"], n_embd=hparams["n_embd"],
                 n_head=hparams["n_head"], n_layer=hparams["n_layer"])
    rng, tensors = np.random.default_rng(0), shapes(**hparams)
    header = header_of({name: ("F32", np.empty(shape, "<f4")) for name, shape in tensors.items()})
    with open(folder / "model.safetensors", "wb") as file:
        file.write(pack(header, b""))
        for name, shape in tensors.items():
            array = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            file.write(np.ones_like(array) if re.search(r"ln_\w\.weight", name) else array)


# ---- Measure: both files, and the memory ----


def timed_generate(module, ids, params, n_head, n_tokens):
    """What module.generate returns, and the seconds for each of these tokens."""
    ends, forward = [], module.gpt2

    def clocked(*args):
        logits = forward(*args)
        ends.append(time.perf_counter())
        return logits

    with mock.patch.multiple(module, gpt2=clocked, tqdm=lambda steps, *_: steps):
        start = time.perf_counter()
        new = module.generate(ids, params, n_head, n_tokens)
    return new, np.diff([start, *ends[-n_tokens:]]).tolist()  # before them: chunks of the prompt


def summary(seconds, n_tokens):
    """first, later (median) and total for n_tokens: extrapolated, unless seconds has them all."""
    first, later, extrapolated = seconds[0], median(seconds[1:]), len(seconds) < n_tokens
    total = first + (n_tokens - 1) * later if extrapolated else sum(seconds)
    return {"first": first, "later": later, "total": total, "extrapolated": extrapolated}


def measure_uncached(ids, new, params, n_head, sample: bool):
    """summary of gpt2.py, and n_compared: how many ids were seen to be the ones in new.

    A sample is the first, second and last token; of the latter two, later is the mean.
    """
    starts = (0, 1, len(new) - 1) if sample else (0,)
    found, seconds = [], []
    for i in starts:
        n_tokens = 1 if sample else len(new)
        tokens, took = timed_generate(gpt2, ids + new[:i], params, n_head, n_tokens)
        if tokens != new[i : i + n_tokens]:
            raise Differs(f"after {len(ids)} + {i} tokens come {tokens} without a cache, and "
                          f"{new[i : i + n_tokens]} with one")
        found, seconds = found + tokens, seconds + took
    return summary(seconds, len(new)) | {"n_compared": len(found)}


def measure_steps(ids, params, n_head, cache, contexts):
    """Seconds for one more token at each of contexts: {"uncached": [...], "cached": [...]}.

    cache holds all ids. By n_past it serves as one that holds fewer.
    """
    seconds = {"uncached": [], "cached": []}
    for n_past in contexts:
        cache["n_past"] = n_past
        start = time.perf_counter()
        cached = gpt2_kvcache.gpt2(ids[n_past : n_past + 1], params, n_head, cache)
        middle = time.perf_counter()
        uncached = gpt2.gpt2(ids[: n_past + 1], params, n_head)
        seconds["uncached"].append(time.perf_counter() - middle)
        seconds["cached"].append(middle - start)
        if np.argmax(cached) != np.argmax(uncached):
            raise Differs(f"what comes after {n_past + 1} tokens depends on the cache")
    return seconds


def last_level_cache() -> int:
    """Bytes, where Linux tells, else 32 MiB."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(s.read_text().rstrip("K\n")) * 1024 for s in sizes), default=32 * 2**20)


def matrices(params) -> dict[str, np.ndarray]:
    """{name: matrix} to measure bandwidth with, each over twice the size of the last-level cache.

    The first makes h @ wte.T, with rows added where a small model's wte would stay in that cache.
    """
    wte, n_embd = params["wte"], params["wte"].shape[1]
    if wte.nbytes <= 2 * last_level_cache():
        wte = np.full((last_level_cache() // (2 * n_embd) + 1, n_embd), 0.01, np.float32)
    other = np.full((4 * n_embd, len(wte) // 4 + 1), 0.01, np.float32)
    return {f"[{len(m)}] @ " + ("[{}, {}]" if m.flags.c_contiguous else "[{1}, {0}].T")
            .format(*m.shape): m for m in (wte.T, other.reshape(n_embd, -1), other,
                                           other.reshape(-1, 4 * n_embd).T)}


def measure_bandwidth(matrix) -> float:
    """Bytes a second that a product of a vector with this matrix reads, the best of five."""
    x, seconds = np.full(len(matrix), 0.01, np.float32), []
    for _ in range(5):
        start = time.perf_counter()
        x @ matrix
        seconds.append(time.perf_counter() - start)
    return matrix.nbytes / min(seconds)


def bytes_read(params, n_context) -> dict[str, int]:
    """What a decode step must read: all weights, but of wpe a single row, and n_context k and v."""
    n_bytes = {name: array.nbytes for name, array in by_name(params).items()}
    n_bytes["wpe.weight"] //= len(params["wpe"])
    n_layer, n_embd = len(params["blocks"]), params["wpe"].shape[1]
    return {"weights": sum(n_bytes.values()), "cache": cache_bytes(n_context, n_layer, n_embd)}


# ---- Measure: transformers ----


def n_threads() -> int:
    """Those of the BLAS: what the environment says, or the cores that this process may use."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def load_transformers(params, hparams):
    """generate(ids, n_tokens, variant) by transformers, or None where it isn't installed.

    It returns what timed_generate does, with the same weights and threads. It calls forward, since
    transformers' own generate adds some milliseconds to each step.
    """
    try:
        import torch
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache
    except ImportError:
        return None
    torch.set_num_threads(n_threads())
    config = GPT2Config(vocab_size=hparams["n_vocab"], n_positions=hparams["n_ctx"],
                        bos_token_id=None, eos_token_id=None,
                        **{name: hparams[name] for name in ("n_embd", "n_head", "n_layer")})
    model = GPT2LMHeadModel(config).eval()
    weights = {f"transformer.{name}": array for name, array in by_name(params).items()}
    weights["lm_head.weight"] = params["wte"]
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})

    @torch.inference_mode()
    def generate(ids, n_tokens, variant):
        attention, cache, chunk = variant
        model.set_attn_implementation(attention)
        cache = (DynamicCache(config=config) if cache == "DynamicCache" else
                 StaticCache(config, max_cache_len=len(ids) + n_tokens))
        inputs, new = torch.tensor([ids]), []
        ends = [time.perf_counter()]
        for _ in range(n_tokens):
            for part in inputs.split(chunk or len(ids), dim=1):
                logits = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            inputs = logits[:, -1:].argmax(-1)
            new.append(int(inputs))
            ends.append(time.perf_counter())
        return new, np.diff(ends).tolist()

    theirs = model(torch.arange(10)[None]).logits[0, -1].detach().numpy()
    ours = gpt2.gpt2([*range(10)], params, hparams["n_head"])
    if np.abs(theirs - ours).max() > 1e-4 * np.abs(ours).max():
        raise Differs("transformers' logits are not ours")
    return generate


def choose_variants(generate, ids):
    """The fastest one of VARIANTS for the first token, and for the later ones."""
    tries = {v: summary(np.minimum(*(generate(ids, 6, v)[1] for _ in range(2))).tolist(), 6)
             for v in VARIANTS if not v[2] or v[2] < len(ids)}
    return {"first": min(tries, key=lambda v: tries[v]["first"]),
            "later": min((v for v in tries if not v[2]), key=lambda v: tries[v]["later"])}


# ---- Measure: everything that runs in this process, and what doesn't ----


def measure(params, hparams, n_prompts=N_PROMPTS, n_tokens=N_TOKENS, contexts=CONTEXTS, rounds=5,
            slow=SLOW):
    """In each round everything once, so that a noisy machine hits all alike.

    -> rows: for each prompt a dict with n_prompt and, for each round, a summary each in cached,
    uncached and transformers; contexts, and measure_steps of each round; bandwidth by matrix
    """
    n_head, n_ctx, chunk = hparams["n_head"], hparams["n_ctx"], gpt2_kvcache.CHUNK
    ids = np.random.default_rng(0).integers(hparams["n_vocab"], size=n_ctx).tolist()
    contexts = sorted({min(n, n_ctx - 1) for n in contexts})
    rows = [{"n_prompt": n, "cached": [], "uncached": [], "transformers": []}
            for n in sorted({min(n, n_ctx - n_tokens) for n in n_prompts})]
    found = {"rows": rows, "n_tokens": n_tokens, "contexts": contexts, "steps": []}
    streamed, generate = matrices(params), load_transformers(params, hparams)
    found["bandwidth"] = dict.fromkeys(streamed, 0.0)

    began = time.perf_counter()
    bar = tqdm(total=(rounds + 1) * (len(rows) + 1), desc="warming up")
    for row in rows:
        prompt = ids[: row["n_prompt"]]
        timed_generate(gpt2_kvcache, prompt, params, n_head, 2)
        took = [timed_generate(gpt2, prompt, params, n_head, 1)[1][0] for _ in range(2)]
        row["sample"] = min(took) * n_tokens > slow
        if generate:
            time.sleep(SETTLE)
            row["variants"] = choose_variants(generate, prompt)
        bar.update()
    cache = gpt2_kvcache.kv_cache(params, n_head, n_ctx)
    for i in range(0, n_ctx, chunk):
        gpt2_kvcache.gpt2(ids[i : i + chunk], params, n_head, cache)
    bar.update()
    for i in range(rounds):
        if i and (time.perf_counter() - began) * (i + 2) / (i + 1) > BUDGET:
            break  # warming up took as long as a round
        bar.set_description(f"round {i + 1} of {rounds}")
        for row in rows:
            prompt = ids[: row["n_prompt"]]
            new, seconds = timed_generate(gpt2_kvcache, prompt, params, n_head, n_tokens)
            row["cached"].append(summary(seconds, n_tokens))
            row["uncached"].append(measure_uncached(prompt, new, params, n_head, row["sample"]))
            if generate:
                time.sleep(SETTLE)
                by = {v: summary(generate(prompt, n_tokens, v)[1], n_tokens)
                      for v in {*row["variants"].values()}}
                row["transformers"].append({f: by[v][f] for f, v in row["variants"].items()})
                time.sleep(SETTLE)
            bar.update()
        found["steps"].append(measure_steps(ids, params, n_head, cache, contexts))
        for name, matrix in streamed.items():
            found["bandwidth"][name] = max(found["bandwidth"][name], measure_bandwidth(matrix))
        bar.update()
    bar.close()
    return found


def peak_rss() -> float:
    """Bytes of memory that this process has had at most; nan where the system doesn't tell."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: on Linux a process inherits its parent's
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def peaks_of(name, n_prompt, model_size, models_dir):
    """Peak after loading, and after two tokens, by which all of the run's memory is in use."""
    _, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    loaded = peak_rss()
    {"gpt2": gpt2, "gpt2_kvcache": gpt2_kvcache}[name].generate([1] * n_prompt, params,
                                                                hparams["n_head"], 2)
    return {"loaded": loaded, "peak": peak_rss()}


def measure_memory(params, hparams, model_size, models_dir, n_prompts):
    """The cache's bytes for each token, the weights', and peaks_of in a process for each."""
    cache, rows = gpt2_kvcache.kv_cache(params, hparams["n_head"], hparams["n_ctx"]), []
    for name in tqdm(("gpt2", "gpt2_kvcache"), "memory"):
        for n in n_prompts:
            call = f"peaks_of{name, n, model_size, str(models_dir)}"
            text, _ = python("-c", f"import benchmark as b, json; print(json.dumps(b.{call}))")
            n_kept = n + 1 if name == "gpt2_kvcache" else 0
            held = cache_bytes(n_kept, hparams["n_layer"], hparams["n_embd"])
            rows.append({"name": name, "n_prompt": n, "cache": held} | json.loads(text))
    return {"rows": rows, "formula": cache_bytes(1, hparams["n_layer"], hparams["n_embd"]),
            "measured": (cache["k"].nbytes + cache["v"].nbytes) / hparams["n_ctx"],
            "weights": sum(array.nbytes for array in by_name(params).values())}


def measure_startup(model_size, models_dir, repeats):
    """Seconds of whole commands, {what: [...]}. The first run of each brings files into memory."""
    small = ["When night came", "--n_tokens_to_generate", "40", "--model_size=1M",
             f"--models_dir={ROOT / 'models'}"]
    idle = "import gpt2_kvcache as m; m.generate = lambda *_: []; m.run(m.main)"
    commands = {"`gpt2.py`, 1M, 40 tokens": [ROOT / "gpt2.py", *small],
                "`gpt2_kvcache.py`, 1M, 40 tokens": [ROOT / "gpt2_kvcache.py", *small],
                f"`gpt2_kvcache.py`, {model_size}, all but download, prefill and decode":
                    ["-c", idle, "hi", f"--model_size={model_size}", f"--models_dir={models_dir}"]}
    seconds = {name: [] for name in commands}
    for i in tqdm(range(repeats + 1), "start-up"):
        texts = []
        for name, command in commands.items():
            text, took = python(*command)
            texts.append(text)
            seconds[name] += [took] * (i > 0)
        if texts[0] != texts[1]:
            raise Differs(f"the two commands print {texts[0]!r} and {texts[1]!r}")
    return seconds


def python(*args):
    """What a Python process prints, and the seconds that it takes."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *args], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, encoding="utf-8")
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout, took


# ---- Report ----


def spread(seconds, scale=1.0) -> str:
    """median (min to max)"""
    values = [scale * second for second in (median(seconds), min(seconds), max(seconds))]
    digits = max(0, 2 - math.floor(math.log10(values[0])))  # three figures
    return "{} ({} to {})".format(*(f"{value:,.{digits}f}" for value in values))


def table(caption, head, rows) -> str:
    """A caption and a Markdown table; a column that ends in a number stands on the right."""
    rule = ["--:" if re.match(r"[~\d]", str(cell)) else "---" for cell in rows[-1]]
    return "\n".join([caption, "", *(f"| {' | '.join(map(str, cells))} |"
                                     for cells in [head, rule, *rows])])


def of(row, file, figure) -> list[float]:
    return [run[figure] for run in row[file]]


def ratio(row, figure, file) -> float:
    """How much longer another file takes than gpt2_kvcache.py does."""
    return median(of(row, file, figure)) / median(of(row, "cached", figure))


def before_and_after(rows, n_tokens) -> str:
    cells = []
    for row in rows:
        about, n = "~" * row["sample"], row["uncached"][0]["n_compared"]
        ids = f"{about}{ratio(row, 'total', 'uncached'):.1f} x", f"{n} of {n}"
        for file, mark, last in ("uncached", about, ("", "")), ("cached", "", ids):
            cells.append([row["n_prompt"], {"uncached": "`gpt2.py`"}.get(file, "`gpt2_kvcache.py`"),
                          spread(of(row, file, "first"), 1e3), spread(of(row, file, "later"), 1e3),
                          mark + spread(of(row, file, "total")), *last])
    return table("**Before and after.** Totals and speed-ups with ~ are extrapolated from the "
                 "first, the second and the last token.",
                 ["prompt, tokens", "file", "first token, ms", "each later token, ms",
                  f"{n_tokens} tokens, s", "speed-up", "identical ids"], cells)


def against_the_limit(found, params) -> tuple[str, float]:
    """The table, and the mean of limit / measured."""
    best, cells, shares = max(found["bandwidth"].values()), [], []
    for row in found["rows"]:
        n_context = row["n_prompt"] + found["n_tokens"] // 2
        size, measured = bytes_read(params, n_context), median(of(row, "cached", "later"))
        limit = sum(size.values()) / best
        shares.append(limit / measured)
        cells.append([n_context, *(f"{n / 1e6:,.1f}" for n in size.values()), f"{limit * 1e3:.2f}",
                      f"{measured * 1e3:.2f}", f"{limit / measured:.2f}"])
    caption = ("**Against the limit.** A decode step must read all weights and the cache. The "
               f"fastest matrix-vector product read {best / 1e9:.1f} GB/s ("
               + ", ".join(f"{name}: {n / 1e9:.1f}" for name, n in found["bandwidth"].items())
               + f"). Mean of limit / measured: {mean(shares):.2f}.")
    if size["weights"] < last_level_cache():
        caption += " These weights fit in the last-level cache, so memory isn't what limits them."
    return table(caption, ["tokens in context", "weights, MB", "cache, MB", "limit, ms",
                           "measured, ms", "limit / measured"], cells), mean(shares)


def against_transformers(rows) -> str:
    def variant(row, figure):
        attention, cache, chunk = row["variants"][figure]
        return f"{attention}, {cache}" + f", chunks of {chunk}" * bool(chunk)

    cells = [[row["n_prompt"], name, spread(of(row, "transformers", figure), 1e3),
              spread(of(row, "cached", figure), 1e3), f"{ratio(row, figure, 'transformers'):.2f}",
              variant(row, figure)]
             for name, figure in (("prefill", "first"), ("decode", "later")) for row in rows]
    return table("**Against transformers** on torch, with its cache: the same weights and threads, "
                 "inference mode, only the last position's logits, the fastest of its variants.",
                 ["prompt, tokens", "", "transformers, ms", "`gpt2_kvcache.py`, ms",
                  "transformers / ours", "its fastest variant"], cells)


def memory(found) -> str:
    cells = [[row["n_prompt"], f"`{row['name']}.py`", *(f"{n / 1e6:,.1f}" for n in (
        found["weights"], row["cache"], row["loaded"], row["peak"]))] for row in found["rows"]]
    return table("**Memory.** The cache takes 2 x n_layer x n_embd x 4 = "
                 f"{found['formula']:,} bytes a token, measured {found['measured']:,.0f}.",
                 ["prompt, tokens", "file", "weights, MB", "cache, MB", "peak after loading, MB",
                  "peak, MB"], cells)


def machine() -> str:
    path = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", path.read_text()) if path.exists() else None
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = []
    for name in ("numpy", "tiktoken", "requests", "tqdm", "fire", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return (f"{model[1] if model else platform.processor() or platform.machine()}, "
            f"{os.cpu_count()} cores, {n_threads()} threads, {last_level_cache() / 2**20:.0f} MiB "
            f"of last-level cache, {platform.system()}, BLAS {blas['name']} {blas['version']}, "
            f"Python {platform.python_version()}, {', '.join(versions)}, {time.strftime('%F')}")


def report(found, params, used, startup, weights) -> str:
    rows = found["rows"]
    limit, share = against_the_limit(found, params)
    first, last = rows[0], rows[-1]
    decode = median(of(last, "cached", "later")) / median(of(first, "cached", "later"))
    lengths = ", ".join(str(row["n_prompt"]) for row in rows)
    short = [["decode: limit / measured, mean", f"{share:.2f}"],
             [f"decode: at {last['n_prompt']} / at {first['n_prompt']}", f"{decode:.2f}"]]
    tables = [f"{weights}. {machine()}. Figures are the median (minimum to maximum) of "
              f"{len(first['cached'])} rounds.", before_and_after(rows, found["n_tokens"]), limit]
    if first["transformers"]:
        tables.append(against_transformers(rows))
        short += [[f"{name} at {lengths}: transformers / ours",
                   ", ".join(f"{ratio(row, figure, 'transformers'):.2f}" for row in rows)]
                  for name, figure in (("decode", "later"), ("prefill", "first"))]
    else:
        tables.append("Not compared with transformers, which isn't installed.")
    tables += [memory(used), table(
        "**Start-up.** Whole commands, from a warm start.", ["command", "s"],
        [[name, spread(seconds)] for name, seconds in startup.items()])]
    return "\n\n".join([*tables, table("**In short.**", ["", "ratio"], short)])


# ---- Drawing ----


def draw(found, path):
    """ms a token against tokens in context. The greys and colours suit light and dark pages."""
    import matplotlib
    from matplotlib.figure import Figure

    grey, x = "#7d8590", found["contexts"]
    style = {"svg.fonttype": "none", "svg.hashsalt": "gpt2", "font.sans-serif": ["DejaVu Sans"],
             "font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
             **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color",
                              "ytick.color"), grey)}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 3.6))
        axes = figure.subplots()
        for name, label, color in (("uncached", "gpt2.py", "#e07b39"),
                                   ("cached", "gpt2_kvcache.py", "#4c8fd6")):
            y = [1e3 * median(times) for times in zip(*(step[name] for step in found["steps"]))]
            axes.plot(x, y, color=color, linewidth=2.5)
            bottom = 10 ** math.floor(math.log10(min(y)))  # the cached file's, which comes last
            axes.annotate(label, (x[-1], y[-1]), (8, 0), textcoords="offset points", color=color,
                          va="center", weight="bold", annotation_clip=False)
        axes.set(yscale="log", xlim=(0, x[-1]), ylim=(bottom, None),
                 xlabel="tokens already in context")
        axes.set_title("milliseconds per token", loc="left", fontsize=12)
        for axis in axes.xaxis, axes.yaxis:
            axis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.minorticks_off()
        figure.subplots_adjust(left=0.08, right=0.74, top=0.9, bottom=0.15)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model_size", default="124M", help="folder in models_dir (124M)")
    parser.add_argument("--models_dir", default=str(ROOT / "models"))
    parser.add_argument("--rounds", type=int, default=5, help="how often all is measured (5)")
    parser.add_argument("--svg", default=str(ROOT / "tests" / "benchmark.svg"))
    args = parser.parse_args()
    with models_or_random(args.model_size, os.path.abspath(args.models_dir)) as folder:
        own = folder == os.path.abspath(args.models_dir)
        name = f"{Path(args.models_dir).name}/{args.model_size}"
        weights = f"The weights in {name}" if own else f"Random weights ({name} is absent)"
        print(weights, file=sys.stderr)
        _, hparams, params = load_encoder_hparams_and_params(args.model_size, folder)
        found = measure(params, hparams, rounds=args.rounds)
        n_prompts = [found["rows"][i]["n_prompt"] for i in (0, -1)]
        used = measure_memory(params, hparams, args.model_size, folder, n_prompts)
        startup = measure_startup(args.model_size, folder, args.rounds)
    print(report(found, params, used, startup, weights))
    try:
        draw(found, args.svg)
    except ImportError:
        print("matplotlib isn't installed: nothing drawn", file=sys.stderr)


if __name__ == "__main__":
    main()
