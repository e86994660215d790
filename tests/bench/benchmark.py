"""Time gpt2.py against gpt2_kvcache.py, this machine's memory and transformers, in one run.

    python tests/bench/benchmark.py

Takes 15 to 20 minutes, on a machine that should do nothing else meanwhile. The weights have the
124M model's shape but are random, so nothing is downloaded. Prints medians and ratios of them.
A run of five rounds or more is kept in results/ and drawn. Without transformers (requirements.txt)
it leaves these out. All times are seconds until they are printed.
"""
import argparse
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
from tqdm import tqdm

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(HERE)]

from costs import cache_bytes  # noqa: E402
from transformers_peer import fastest_variants, load_transformers, n_threads  # noqa: E402
from weights import HPARAMS, by_name, random_params  # noqa: E402

import gpt2  # noqa: E402
import gpt2_kvcache  # noqa: E402

FILES = {"gpt2.py": gpt2, "gpt2_kvcache.py": gpt2_kvcache}
N_PROMPTS, N_TOKENS = (10, 128, 512, 960), 40  # tokens of each prompt, and to generate
DRAWN = (1, 64, 256, 384, 640, 768, 1022)  # more prompts for the drawing, with 2 tokens each
NOISY = 0.25  # of the median: a figure whose rounds spread wider says nothing
SETTLE = 0.3  # seconds between NumPy and torch: for 0.1 the one's idle threads still slow the other


class Differs(Exception):
    """Two ways to compute the same gave different results, so no time means anything."""


def timed_generate(module, ids, params, n_head, n_tokens):
    """The ids that module.generate adds, the logits behind each, and the seconds each one took.

    The first step runs the whole prompt. A step lasts from one step's logits to the next one's.
    """
    forward, logits, ends = module.gpt2, [], []

    def clocked(*args, **kwargs):
        logits.append(forward(*args, **kwargs))
        ends.append(time.perf_counter())
        return logits[-1]

    with mock.patch.multiple(module, gpt2=clocked, tqdm=lambda steps, *_, **__: steps):
        start = time.perf_counter()
        new = module.generate(ids, params, n_head, n_tokens)
    return new, logits, np.diff([start, *ends]).tolist()


def limit(params, n_context, bandwidth):
    """The least that a cached step takes: all weights, of wpe one row, and the cache are read."""
    n_layer, n_embd = len(params["blocks"]), params["wte"].shape[1]
    weights = sum(array.nbytes for array in by_name(params).values()) - params["wpe"][1:].nbytes
    return (weights + cache_bytes(n_context, n_layer, n_embd)) / bandwidth


def passes(matrices, n):
    """The seconds of each of n passes that multiply a vector by every one of these matrices."""
    pairs = [(np.full((1, len(matrix)), 0.01, np.float32), matrix) for matrix in matrices]
    seconds = []
    for _ in range(n):
        start = time.perf_counter()
        for x, matrix in pairs:
            x @ matrix
        seconds.append(time.perf_counter() - start)
    return seconds


def best_bandwidth(params):
    """Bytes a second of the fastest product, of matrices as large as wte, or as all weights."""
    n_embd, layouts = params["wte"].shape[1], []
    for size in params["wte"].size, sum(array.size for array in by_name(params).values()):
        numbers = np.full(size // (4 * n_embd) * 4 * n_embd, 0.01, np.float32)
        layouts += [matrix for n in (n_embd, 4 * n_embd)
                    for matrix in (numbers.reshape(n, -1), numbers.reshape(-1, n).T)]
    return max(matrix.nbytes / min(passes([matrix], 5)) for matrix in layouts)


def products_alone(params):
    """Seconds of the matrix-vector products of one step, with nothing in between."""
    layers = [layer["w"] for block in params["blocks"]
              for layer in (*block["attn"].values(), *block["mlp"].values())]
    return median(passes([*layers, params["wte"].T], 20))


def check_same(what, run, other, tolerance=1e-4):
    """Differs unless two results of timed_generate agree: the ids, and nearly the logits."""
    (ids, logits, _), (other_ids, other_logits, _) = run, other
    apart = np.abs(np.array(logits) - other_logits).max() / np.abs(logits).max()
    if ids != other_ids or not apart <= tolerance:
        raise Differs(f"{what}: ids {ids} and {other_ids}; logits {apart:.1e} of the largest apart")


def time_files(ids, params, n_head, n_tokens):
    """The new ids, and {file: the seconds of each step}."""
    runs = {file: timed_generate(module, ids, params, n_head, n_tokens)
            for file, module in FILES.items()}
    check_same(f"without and with a cache, after {len(ids)} tokens", *runs.values())
    return runs["gpt2.py"][0], {file: seconds for file, (_, _, seconds) in runs.items()}


def measure(params, hparams, n_prompts=N_PROMPTS, n_tokens=N_TOKENS, drawn=DRAWN, rounds=5):
    """For each prompt a dict of lists with an item a round, in which all take turns.

    An item of FILES, "transformers" and "generate" is the seconds of each step, the prefill first.
    """
    ids = np.random.default_rng(0).integers(hparams["n_vocab"], size=hparams["n_ctx"]).tolist()
    rows = [{"n_prompt": n, "n_tokens": n_tokens if n in n_prompts else 2, "variants": None,
             **{name: [] for name in (*FILES, "products", "bandwidth", "transformers", "generate")}}
            for n in sorted({*n_prompts, *drawn})]
    timed = load_transformers(params, hparams)
    for row in rows:
        time_files(ids[: row["n_prompt"]], params, hparams["n_head"], 2)  # to warm up
        if timed and row["n_prompt"] in n_prompts:
            row["variants"] = fastest_variants(timed, ids[: row["n_prompt"]])
    for row in tqdm(rows * rounds, "measuring"):
        prompt = ids[: row["n_prompt"]]
        time.sleep(SETTLE if timed else 0)
        new, seconds = time_files(prompt, params, hparams["n_head"], row["n_tokens"])
        for file in FILES:
            row[file].append(seconds[file])
        if row["n_prompt"] in n_prompts:
            row["products"].append(products_alone(params))
            row["bandwidth"].append(best_bandwidth(params))
        if row["variants"]:
            time.sleep(SETTLE)
            theirs = {v: timed(prompt, n_tokens, v) for v in {*row["variants"], "generate"}}
            if any(other != new for other, _ in theirs.values()):
                raise Differs(f"transformers generates other ids after {len(prompt)} tokens")
            prefill, step = (theirs[variant][1] for variant in row["variants"])
            row["transformers"].append([prefill[0], *step[1:]])
            row["generate"].append(theirs["generate"][1])
    return rows


def measure_startup(rounds):
    """{file: seconds of the whole command that adds 40 tokens with models/1M, in each round}"""
    seconds = {file: [] for file in FILES}
    for i in range(rounds + 1):  # the first reads the files from disk
        for file in FILES:
            start = time.perf_counter()
            subprocess.run([sys.executable, ROOT / file, "The wolf said", "--model_size", "1M",
                            "--n_tokens_to_generate", "40"], check=True, capture_output=True)
            seconds[file] += [time.perf_counter() - start] if i else []
    return seconds


def steps(runs):
    """Of each run the median of its steps, without the first, which is the prefill."""
    return [median(run[1:]) for run in runs]


def prefills(runs):
    return [run[0] for run in runs]


def spread(values):
    """From the second lowest to the second highest, in medians: one bad round on a side may be."""
    inner = sorted(values)[1:-1] if len(values) > 4 else values
    return (max(inner) - min(inner)) / median(values)


def told(values, scale=1):
    """The median, or "noisy"."""
    value = scale * median(values)
    digits = min(2, max(0, 2 - math.floor(math.log10(value))))
    return "noisy" if spread(values) > NOISY else f"{value:,.{digits}f}"


def ratio(values, others):
    """The median of the rounds' own ratios, in which a machine's drift cancels out, or "noisy"."""
    return told([value / other for value, other in zip(values, others)])


def aligned(rows):
    """Rows of text as columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                     for row in rows)


def report(rows, startup, params):
    """The table, and what compares with a step of gpt2_kvcache.py."""
    rows = [row for row in rows if row["products"]]
    n_tokens, bandwidth = rows[0]["n_tokens"], max(max(row["bandwidth"]) for row in rows)
    table = [["", *FILES, "", *FILES, ""], ["prompt", "ms a step", "ms a step", "ratio",
                                            *[f"{n_tokens} tokens, s"] * 2, "spread"]]
    names = ("the memory's limit", "its matrix products alone", "transformers, fastest variant",
             "transformers, generate()")
    against = [["time, where a step of gpt2_kvcache.py is 1"], *([name] for name in names)]
    for row in rows:
        without, cached = (steps(row[file]) for file in FILES)
        totals = [[sum(run) for run in row[file]] for file in FILES]
        table.append([f"{row['n_prompt']}", told(without, 1e3), told(cached, 1e3),
                      ratio(without, cached), *map(told, totals),
                      f"{max(map(spread, (without, cached, *totals))):.0%}"])
        least = limit(params, row["n_prompt"] + n_tokens // 2, bandwidth)
        others = ([least] * len(cached), row["products"], steps(row["transformers"]),
                  steps(row["generate"]))
        against[0].append(f"{row['n_prompt']}")
        for line, other in zip(against[1:], others):
            line.append(ratio(other, cached) if other else "-")
    text = (f"{aligned(table)}\n\n{aligned(against)}\n\nstart-up and 40 tokens of the 1M model: "
            + ", ".join(f"{file} {told(seconds)} s" for file, seconds in startup.items()))
    if not rows[0]["variants"]:
        text += "\ntransformers isn't installed (see requirements.txt), so it is left out"
    if "noisy" in text:
        text += (f"\nTOO NOISY, where it says so: the rounds spread over more than {NOISY:.0%} of "
                 "their median, so this means nothing. Try again on a quieter machine.")
    return text


def cpu():
    path = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", path.read_text()) if path.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def machine():
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = [f"{name} {sys.modules[name].__version__}"
                for name in ("numpy", "torch", "transformers") if name in sys.modules]
    return (f"{cpu()}, {os.cpu_count()} cores, {n_threads()} threads, {platform.system()}, Python "
            f"{platform.python_version()}, {', '.join(versions)}, {blas['name']} {blas['version']}")


def details(rows, startup):
    """The prefill against transformers, and everything that was measured, by round."""
    found, prefill = [], [["prefill", "gpt2_kvcache.py, ms", "transformers, ms", "ratio",
                           "fastest with the prompt", "and after it"]]
    for row in rows:
        if row["variants"]:
            ours, theirs = (prefills(row[name]) for name in ("gpt2_kvcache.py", "transformers"))
            prefill.append([f"{row['n_prompt']}", told(ours, 1e3), told(theirs, 1e3),
                            ratio(theirs, ours), *map(" ".join, row["variants"])])
        for name in (*FILES, "transformers", "generate"):
            runs = row[name]
            found += [(row, f"{name}: prefill, ms", [1e3 * prefill for prefill in prefills(runs)]),
                      (row, f"{name}: step, ms", [1e3 * step for step in steps(runs)]),
                      (row, f"{name}: {row['n_tokens']} tokens, s", [sum(run) for run in runs])]
        found += [(row, "matrix products, ms", [1e3 * seconds for seconds in row["products"]]),
                  (row, "bandwidth, GB/s", [bandwidth / 1e9 for bandwidth in row["bandwidth"]])]
    found += [({"n_prompt": "-"}, f"{file}: whole command, s", startup[file]) for file in startup]
    table = [[what, str(row["n_prompt"]), f"{median(values):,.2f}", f"{spread(values):.0%}",
              *(f"{value:,.2f}" for value in values)] for row, what, values in found if values]
    head = ["", "prompt", "median", "spread", *["round"] * (len(table[0]) - 4)]
    cache = f"the cache: {cache_bytes(1, HPARAMS['n_layer'], HPARAMS['n_embd']):,} bytes a token"
    return f"{aligned(prefill)}\n\n{cache}\n\n{aligned([head, *table])}"


def draw(rows):
    """SVG of milliseconds a step against tokens in context, in colours for light and dark pages."""
    lines = {file: [(row["n_prompt"] + row["n_tokens"] // 2, 1e3 * median(steps(row[file])))
                    for row in rows] for file in FILES}
    every = [ms for line in lines.values() for _, ms in line]
    low, high = math.floor(math.log10(min(every))), math.log10(max(every)) + 0.2

    def x(n):
        return 48 + 352 * n / 1024

    def y(ms):
        return round(240 - 205 * (math.log10(ms) - low) / (high - low), 1)

    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 285" width="630" role="img">',
           "<title>Milliseconds a token against tokens in context, for both files</title>",
           "<style>text { font: 14px sans-serif; fill: #737b85; text-anchor: end } "
           ".x { text-anchor: middle } path { fill: none; stroke: #737b8566 }</style>",
           '<text x="248" y="18">milliseconds a token (log scale)</text>',
           '<text x="224" y="280" class="x">tokens in context</text>',
           *(f'<text x="{x(n)}" y="260" class="x">{n:,}</text>' for n in range(0, 1025, 256))]
    for ms in (10**power for power in range(low, math.floor(high) + 1)):
        svg += [f'<path d="M48 {y(ms)}H400"/>', f'<text x="42" y="{y(ms) + 5}">{ms:,g}</text>']
    for (file, line), color in zip(lines.items(), ("#c8611a", "#2f7fd0")):
        points, last = " ".join(f"{x(n):.1f} {y(ms)}" for n, ms in line), line[-1][1]
        svg += [f'<path d="M{points}" style="stroke: {color}; stroke-width: 3"/>',
                f'<text x="400" y="{y(last) - 10}" style="fill: {color}; font-weight: bold">'
                f"{file}: {last:,.0f} ms</text>"]
    return "\n".join([*svg, "</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="fewer than 5 are a trial, not kept")
    rounds, params = parser.parse_args().rounds, random_params(**HPARAMS)
    startup, rows = measure_startup(rounds), measure(params, HPARAMS, rounds=rounds)
    text = (f"{machine()}\n124M, random weights; both files give the same ids and logits; medians, "
            f"rounds: {rounds}{' (a trial)' * (rounds < 5)}\n\n{report(rows, startup, params)}")
    print(text)
    if rounds >= 5:
        title = f"{cpu()}, {time.strftime('%F')}"
        path = HERE / "results" / (re.sub(r"\W+", "-", title) + ".md")
        path.parent.mkdir(exist_ok=True)
        while path.exists():
            path = path.with_stem(f"{path.stem}-again")
        path.write_text(f"# {title}\n\n```\n{text}\n\n{details(rows, startup)}\n```\n")
        (HERE / "benchmark.svg").write_text(draw(rows))


if __name__ == "__main__":
    main()
