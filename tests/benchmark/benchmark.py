"""Print what a step takes in gpt2.py, in gpt2_kvcache.py and in other programs: 12 minutes.

    python tests/benchmark/benchmark.py [--picogpt DIR DIR]

Use a machine that does nothing else meanwhile. The weights have the 124M model's shape but are
random, so nothing is downloaded. What isn't installed is left out (see README.md beside this file).
A run of three rounds is kept in results/ and drawn. All times are seconds until they are printed.
"""
import argparse
import math
import re
import time
from collections import defaultdict
from functools import partial
from html import escape
from pathlib import Path
from statistics import median

import numpy as np
import peers
from measuring import (
    FILES,
    ROUNDING,
    aligned,
    cpu,
    forced_kernel,
    forced_threads,
    load_average,
    machine,
    n_threads,
    ratio,
    shown,
    timed_generate,
)
from tqdm import tqdm
from weights import HPARAMS, by_name, random_params

HERE = Path(__file__).parent
CACHED, PRODUCTS = "gpt2_kvcache.py", "its matrix products alone"
N_PROMPTS, N_TOKENS = (10, 128, 512, 960), 40  # tokens of each prompt, and to generate
DRAWN = (1, 256, 384, 640, 768)  # more prompts for the drawing, with 2 tokens each
ROUNDS = 3
NOISY = 0.25  # of the median: a figure whose rounds spread wider says nothing
SETTLE = 0.3  # seconds around another program's run: for 0.1 its idle threads still slow the next


class Differs(Exception):
    """Two ways to compute the same gave different results, so no time means anything."""


def limit(params, n_context, bandwidth):
    """The least that a cached step takes: all weights, of wpe one row, and the cache are read."""
    n_layer, n_embd = len(params["blocks"]), params["wte"].shape[1]
    weights = sum(array.nbytes for array in by_name(params).values()) - params["wpe"][1:].nbytes
    return (weights + 2 * n_layer * n_embd * 4 * n_context) / bandwidth


def passes(matrices, n):
    """The seconds of each of n passes that multiply a vector by every one of these matrices."""
    pairs = [(np.full((1, len(matrix)), 0.01, np.float32), matrix) for matrix in matrices]
    ends = [time.perf_counter()]
    for _ in range(n):
        for x, matrix in pairs:
            x @ matrix
        ends.append(time.perf_counter())
    return np.diff(ends).tolist()


def best_bandwidth(params):
    """Bytes a second of the fastest product, of matrices as large as wte, or as all weights."""
    n_embd, layouts = params["wte"].shape[1], []
    for size in params["wte"].size, sum(array.size for array in by_name(params).values()):
        numbers = np.full(size // (4 * n_embd) * 4 * n_embd, 0.01, np.float32)
        for n in n_embd, 4 * n_embd:
            layouts += [numbers.reshape(n, -1), numbers.reshape(-1, n).T]
    return max(matrix.nbytes / min(passes([matrix], 5)) for matrix in layouts)


def ours(params, n_head):
    """{name: timed} of both files, and of a cached step's matrix products with nothing between."""
    def time_file(module, ids, n_tokens):
        return timed_generate(module, ids, params, n_head, n_tokens)

    def time_products(ids, n_tokens):
        return None, None, passes(matrices, n_tokens)

    matrices = [by_name(block)[f"{name}.weight"] for block in params["blocks"]
                for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    matrices.append(params["wte"].T)
    files = {file: partial(time_file, module) for file, module in FILES.items()}
    return files | {PRODUCTS: time_products}


def schedule(names, picogpts, rounds):
    """(name, tokens of the prompt, tokens to generate) of each run: in a round all take turns.

    picoGPT takes half a second a token, so it has the first prompt alone.
    """
    turns = []
    for _ in range(rounds):
        for n_prompt in sorted({*N_PROMPTS, *DRAWN}):
            for name in names:
                if n_prompt in DRAWN and name in FILES:
                    turns.append((name, n_prompt, 2))
                elif n_prompt == N_PROMPTS[0] or (n_prompt in N_PROMPTS and name not in picogpts):
                    turns.append((name, n_prompt, N_TOKENS))
    return turns


def measure(contestants, ids, turns):
    """{(name, tokens of the prompt): of each run, the seconds that each of its steps took}"""
    first, seconds, settled = {}, defaultdict(list), True
    for name, n_prompt, n_tokens in tqdm(turns, "measuring", unit=" runs", disable=None):
        is_ours = name in FILES or name == PRODUCTS
        time.sleep(0 if settled and is_ours else SETTLE)
        settled = is_ours
        run = contestants[name](ids[:n_prompt], n_tokens)
        if name != PRODUCTS:
            check_same(f"{name} after {n_prompt} tokens", run, first.setdefault(n_prompt, run))
        seconds[name, n_prompt].append(run[2])
    return seconds


def check_same(what, run, first):
    """Differs unless two runs agree: the ids, and nearly the logits where they are known."""
    (ids, logits, _), (first_ids, first_logits, _) = run, first
    if ids != first_ids:
        raise Differs(f"{what}: ids {ids}, not {first_ids}")
    if logits is not None:
        apart = np.abs(np.array(logits) - first_logits).max() / np.abs(first_logits).max()
        if not apart <= ROUNDING:
            raise Differs(f"{what}: the logits are {apart:.1e} of the largest one apart")


def step(run):
    return median(run[1:])


def prefill(run):
    return run[0]


def spread(values):
    """From the second lowest to the second highest, in medians: one bad round on a side may be."""
    inner = sorted(values)[1:-1] if len(values) > 4 else values
    return (max(inner) - min(inner)) / median(values)


def told(values, scale):
    """The median, unless there is none that says something."""
    if not values:
        return "-"
    return "noisy" if spread(values) > NOISY else shown(scale * median(values))


def against(text, other):
    """The ratio of two of these, or that there is none."""
    return ratio(text, other) if {text, other}.isdisjoint({"noisy", "-"}) else "-"


def file_table(seconds):
    """Both files: a step, and all tokens."""
    all_tokens = f"{N_TOKENS} tokens, s"
    table = [["", *FILES, "", *FILES, "", ""],
             ["prompt", *["ms a step"] * 2, "ratio", *[all_tokens] * 2, "ratio", "spread"]]
    for n in N_PROMPTS:
        row, spreads = [str(n)], []
        for of, scale in (step, 1e3), (sum, 1):
            values = [[of(run) for run in seconds[file, n]] for file in FILES]
            texts = [told(one, scale) for one in values]
            row += [*texts, against(*texts)]
            spreads += map(spread, values)
        table.append([*row, f"{max(spreads):.0%}"])
    return aligned(table)


def program_table(seconds, names, title, of, scale, limits=None):
    """A row for each program, a column for each prompt; of transformers the fastest loop's time."""
    groups = {name: [name] for name in names if not name.startswith(peers.LOOP)}
    if loops := [name for name in names if name.startswith(peers.LOOP)]:
        groups["transformers, fastest loop"] = loops
    cells = {"the memory's limit": [shown(scale * least) for least in limits]} if limits else {}
    for group, members in groups.items():
        cells[group] = []
        for n in N_PROMPTS:
            runs = [[of(run) for run in seconds[name, n]] for name in members if seconds[name, n]]
            cells[group].append(told(min(runs, key=median, default=[]), scale))
    table = [[title, *(f"{n} tokens" for n in N_PROMPTS)]]
    for group, texts in sorted(cells.items(), key=lambda item: item[0] != CACHED):
        ratios = [f" ({against(*pair)})" for pair in zip(texts, cells[CACHED])]
        table.append([group, *(text + ratio * (group != CACHED and text != "-")
                               for text, ratio in zip(texts, ratios))])
    return aligned(table)


def report(seconds, names, params, bandwidth, lines):
    """The table of both files, and under it those of all programs."""
    limits = [limit(params, n + N_TOKENS // 2, bandwidth) for n in N_PROMPTS]
    programs = [name for name in names if name != PRODUCTS]
    parts = [file_table(seconds),
             program_table(seconds, names, "decode, ms a step", step, 1e3, limits),
             program_table(seconds, programs, "prefill, ms", prefill, 1e3),
             program_table(seconds, programs, f"prompt + {N_TOKENS} tokens, s", sum, 1),
             "In brackets: divided by gpt2_kvcache.py's time. Every ratio is that of the figures "
             "shown.", *lines]
    text = "\n\n".join(parts)
    if "noisy" in text:
        text += (f"\n\nnoisy: the rounds spread over more than {NOISY:.0%} of their median, so the "
                 "figure would mean nothing. Try again on a quieter machine.")
    return text


def by_round(seconds):
    """Everything that was measured, round by round."""
    table = [["ms", "prompt", "median", "rounds"]]
    measured = {key: runs for key, runs in sorted(seconds.items()) if runs}
    for (name, n_prompt), runs in measured.items():
        for what, of in ("first step", prefill), ("later steps", step):
            values = [1e3 * of(run) for run in runs]
            rounds = " ".join(shown(value) for value in values)
            table.append([f"{name}: {what}", str(n_prompt), shown(median(values)), rounds])
    return aligned(table)


def keep(title, text, seconds):
    """Write the results file and the drawing."""
    path = HERE / "results" / (re.sub(r"\W+", "-", title) + ".md")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {title}\n\n```\n{text}\n\n{by_round(seconds)}\n```\n", "utf-8")
    (HERE / "benchmark.svg").write_text(draw(seconds), "utf-8")


SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" width="720" role="img">
<title>Milliseconds a token against tokens in context: one file climbs, the other stays flat</title>
<style>
svg {{ --page: #ffffff; --text: #1f2328; --soft: #59636e; --slow: #bc4c00; --fast: #0969da }}
@media (prefers-color-scheme: dark) {{ svg {{ --page: #0d1117; --text: #f0f6fc; --soft: #9198a1;
  --slow: #f0883e; --fast: #4493f8 }} }}
text {{ font: 14px "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft) }}
.page {{ fill: var(--page) }} .grid {{ stroke: var(--soft); stroke-opacity: 0.3 }}
.bold {{ font-weight: bold }} .end {{ text-anchor: end }} .middle {{ text-anchor: middle }}
polyline {{ fill: none; stroke-width: 3 }}
.slow {{ stroke: var(--slow) }} .fast {{ stroke: var(--fast) }}
text.slow {{ fill: var(--slow); stroke: none }} text.fast {{ fill: var(--fast); stroke: none }}
</style>
<rect class="page" width="480" height="300" rx="6"/>
<text x="60" y="24" class="bold">milliseconds a token</text>
{body}
<text x="265" y="276" class="middle">tokens in context</text>
<text x="460" y="294" class="end" style="font-size: 12px">{machine}</text>
</svg>
"""


def draw(seconds):
    """SVG of milliseconds a step against tokens in context, in colours for light and dark pages."""
    lines = {}
    for file in FILES:
        prompts = sorted(n for name, n in seconds if name == file)
        lines[file] = [(n, 1e3 * median(step(run) for run in seconds[file, n])) for n in prompts]
    top = 1.1 * max(ms for line in lines.values() for _, ms in line)

    def x(n):
        return round(60 + 400 * n / 1024, 1)

    def y(ms):
        return round(238 - 200 * ms / top, 1)

    body = [f'<text x="{x(n)}" y="256" class="middle">{n:,}</text>' for n in range(0, 1025, 256)]
    unit = 10 ** math.floor(math.log10(top))
    unit = unit / 2 if top < 3 * unit else unit
    for i in range(int(top / unit) + 1):
        ms = i * unit
        body.append(f'<path class="grid" d="M60 {y(ms)}H460"/>')
        body.append(f'<text x="54" y="{y(ms) + 5}" class="end">{ms:,.0f}</text>')
    for (file, line), css in zip(lines.items(), ("slow", "fast")):
        points = " ".join(f"{x(n)},{y(ms)}" for n, ms in line)
        n, ms = line[-1]
        body.append(f'<polyline class="{css}" points="{points}"/>')
        body.append(f'<text x="{x(n) - 8}" y="{y(ms) - 9}" class="bold end {css}">'
                    f"{file}: {ms:,.0f} ms</text>")
    said = f"{cpu()}, {n_threads()} threads; 124M model's shape"
    return SVG.format(body="\n".join(body), machine=escape(said, False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fewer than 3 are not kept")
    parser.add_argument("--picogpt", nargs="+", default=[], metavar="DIR", help="checkouts of it")
    args = parser.parse_args()

    params, load_before = random_params(**HPARAMS), load_average()
    others, picogpts, lines = peers.load(params, HPARAMS, args.picogpt)
    contestants = ours(params, HPARAMS["n_head"]) | others
    ids = np.random.default_rng(0).integers(HPARAMS["n_vocab"], size=HPARAMS["n_ctx"]).tolist()
    for timed in contestants.values():
        timed(ids[: N_PROMPTS[0]], 2)  # to warm up

    bandwidth = best_bandwidth(params)
    seconds = measure(contestants, ids, schedule(contestants, picogpts, args.rounds))
    bandwidth = max(bandwidth, best_bandwidth(params))

    head = [machine(), peers.versions(), forced_threads(), forced_kernel(),
            f"124M model's shape, random weights; rounds: {args.rounds}; medians; load average "
            f"{load_before} before, {load_average()} after; memory read at "
            f"{bandwidth / 1e9:.0f} GB/s"]
    text = "\n".join(line for line in head if line)
    text += "\n\n" + report(seconds, contestants, params, bandwidth, lines)
    print(text)
    if args.rounds >= ROUNDS and not forced_kernel():
        keep(f"{cpu()}, {time.strftime('%F')}", text, seconds)


if __name__ == "__main__":
    main()
