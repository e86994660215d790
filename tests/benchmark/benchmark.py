"""Print what a token takes in both files and in others: 12 to 20 minutes.

    python tests/benchmark/benchmark.py [--picogpt DIR DIR]

Use a machine that does nothing else meanwhile. The weights have the 124M
model's shape but are random, so nothing is downloaded. What isn't installed is
left out (see README.md beside this file). A run of three rounds or more is
kept in results/, and benchmark.svg is overwritten, unless the environment
forces the BLAS's kernel.
"""
import argparse
import re
import sys
import time
import timeit
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/standins")]

import peers
from chart import draw
from checkpoints import by_name
from machine import cpu, forced_kernel, forced_threads, load_average, machine, n_threads
from measuring import FILES, ROUNDING, aligned, bar, ratio, shown, spread, timed_generate, wrapped
from weights import HPARAMS, random_params

from gpt2_kvcache import empty_kv_cache
from utils import UserError, plain_endings

N_PROMPTS, N_TOKENS = (10, 128, 512, 960), 40  # tokens of each prompt, and to generate
DRAWN = (1, 256, 384, 640, 768)  # more prompts for the drawing, with 2 tokens each
ROUNDS = 3
NOISY = 0.2  # of the median: a figure whose rounds spread wider says nothing
SETTLE = 0.3  # seconds around another program's run: for 0.1 its idle threads still slow the next
FASTEST_LOOP = "transformers, fastest loop"
TIMES_AS_FAST = "times as fast with a cache"


def product_seconds(matrix):
    """The shortest of five products of a row and this matrix."""
    x = np.full((1, len(matrix)), 0.01, np.float32)
    return min(timeit.repeat(lambda: x @ matrix, number=1, repeat=5))


def best_bandwidth(params):
    """Bytes a second of the fastest product, of matrices as large as wte, or as all weights."""
    n_embd = params["wte"].shape[1]
    best = 0
    for size in params["wte"].size, sum(array.size for array in by_name(params).values()):
        numbers = np.full(size // (4 * n_embd) * 4 * n_embd, 0.01, np.float32)
        for n in n_embd, 4 * n_embd:
            for matrix in numbers.reshape(n, -1), numbers.reshape(-1, n).T:
                best = max(best, matrix.nbytes / product_seconds(matrix))
    return best


def limit(params, n_context, bandwidth):
    """The seconds that a cached step takes at least, to read all weights and the cache."""
    weights = sum(array.nbytes for array in by_name(params).values())
    weights -= params["wpe"][1:].nbytes  # of wpe only one row is read
    kv_cache = empty_kv_cache(params, 1, n_context)  # it is as large with any number of heads
    return (weights + kv_cache.nbytes) / bandwidth


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
    for name, n_prompt, n_tokens in bar(turns, "measuring", unit=" runs"):
        if name not in FILES or not settled:
            time.sleep(SETTLE)
        settled = name in FILES
        run = contestants[name](ids[:n_prompt], n_tokens=n_tokens)
        check_same(f"{name} after {n_prompt} tokens", run, first.setdefault(n_prompt, run))
        seconds[name, n_prompt].append(run.seconds)
    return dict(seconds)


def check_same(what, run, first):
    """UserError unless two runs agree: the ids, and nearly the logits where they are known."""
    if run.ids != first.ids:
        raise UserError(f"{what}: ids {run.ids}, not {first.ids}: so no time means anything")
    if run.logits is not None:
        apart = np.abs(np.array(run.logits) - first.logits).max() / np.abs(first.logits).max()
        if not apart <= ROUNDING:  # so NaN is refused, too
            raise UserError(f"{what}: the logits are {apart:.1e} of the largest one apart")


def decode(run):
    """Milliseconds a step, after the first."""
    return 1e3 * median(run[1:])


def prefill(run):
    """Milliseconds of the first step."""
    return 1e3 * run[0]


DECODE_AND_PREFILL = [*((decode, n) for n in N_PROMPTS), *((prefill, n) for n in N_PROMPTS[2:])]
ALL_TOKENS = [(sum, n) for n in N_PROMPTS]


def told(values):
    """The median, unless it says nothing."""
    return "noisy" if spread(values) > NOISY else shown(median(values))


def fastest(seconds, names, of, n_prompt):
    """The figure of these programs' fastest, by what `of` makes of a run; "-" if none was timed."""
    timed = [seconds[name, n_prompt] for name in names if (name, n_prompt) in seconds]
    figures = [[of(run) for run in runs] for runs in timed]
    return told(min(figures, key=median)) if figures else "-"


def times_as_fast(without, cached):
    """The ratio of two figures, "-" unless both are numbers."""
    return "-" if {without, cached} & {"noisy", "-"} else ratio(without, cached)


def program_rows(seconds, columns):
    """A row for each program; transformers' loops have one for all. columns: (of, n_prompt)."""
    groups = {}
    for name, _ in seconds:
        row = FASTEST_LOOP if name.startswith(peers.LOOP) else name
        groups.setdefault(row, []).append(name)

    rows = [[row, *(fastest(seconds, names, *column) for column in columns)]
            for row, names in groups.items()]
    without, cached = rows[:2]
    rows.insert(2, [TIMES_AS_FAST, *map(times_as_fast, without[1:], cached[1:])])
    return rows


def report(seconds, limits):
    """The two tables. limits: the seconds that a cached step takes at least, for each prompt."""
    heads = [["", "decode", *[""] * (len(N_PROMPTS) - 1), "prefill", ""],
             ["milliseconds", *(str(n) for _, n in DECODE_AND_PREFILL)]]
    rows = program_rows(seconds, DECODE_AND_PREFILL)
    rows.insert(3, ["the memory's limit", *(shown(1e3 * least) for least in limits), "-", "-"])
    head = [f"prompt + {N_TOKENS} tokens, s", *(str(n) for _, n in ALL_TOKENS)]
    tables = (f"{aligned([*heads, *rows])}\n\n"
              f"{aligned([head, *program_rows(seconds, ALL_TOKENS)])}")

    notes = ("10 to 960: tokens of the prompt. decode: the median of the steps after the first. "
             "prefill: the first step. Every ratio is that of the figures shown.")
    if "noisy" in tables:
        notes += (f" noisy: the rounds spread over more than {NOISY:.0%} of their median, so that "
                  "it means nothing. Try again on a quieter machine.")
    return f"{tables}\n\n{wrapped(notes)}"


def by_round(seconds):
    """Everything that was measured, round by round."""
    table = [["milliseconds", "prompt", "prefill", "decode"]]
    for (name, n_prompt), runs in seconds.items():
        rounds = [" ".join(shown(of(run)) for run in runs) for of in (prefill, decode)]
        table.append([name, str(n_prompt), *rounds])
    return aligned(table)


def keep(title, text, seconds):
    """Write the results file and the drawing."""
    path = HERE / "results" / (re.sub(r"\W+", "-", title) + ".md")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {title}\n\n```text\n{text}\n\n{by_round(seconds)}\n```\n", "utf-8")

    lines = {file: [(n, median(map(decode, runs))) for (name, n), runs in sorted(seconds.items())
                    if name == file] for file in FILES}
    picture = draw(lines, f"{cpu()}, {n_threads()} threads; 124M model's shape")
    (HERE / "benchmark.svg").write_text(picture, "utf-8")
    print(f"\nKept as results/{path.name}\nbenchmark.svg is overwritten.")


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fewer than 3 are not kept")
    parser.add_argument("--picogpt", nargs="+", default=[], metavar="DIR", help="checkouts of it")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds is a whole number from 1 up")
    return args


def main():
    args = parsed()
    load_before = load_average()
    params = random_params(**HPARAMS)
    others, picogpts, left_out = peers.load(params, HPARAMS, args.picogpt)
    files = {file: partial(timed_generate, module, params=params, n_head=HPARAMS["n_head"])
             for file, module in FILES.items()}
    contestants = {**files, **others}
    ids = np.random.default_rng(0).integers(HPARAMS["n_vocab"], size=HPARAMS["n_ctx"]).tolist()
    for timed in contestants.values():
        timed(ids[: N_PROMPTS[0]], n_tokens=2)  # to warm up

    bandwidth = best_bandwidth(params)
    seconds = measure(contestants, ids, schedule(contestants, picogpts, args.rounds))
    bandwidth = max(bandwidth, best_bandwidth(params))

    limits = [limit(params, n + N_TOKENS // 2, bandwidth) for n in N_PROMPTS]
    head = [machine(), peers.versions(), forced_threads(), forced_kernel(),
            f"124M model's shape, random weights. Rounds: {args.rounds}. Load: "
            f"{load_before:.1f} before, {load_average():.1f} after.",
            f"Memory read at {bandwidth / 1e9:.0f} GB/s.", *left_out]
    text = f"{wrapped(chr(10).join(filter(None, head)))}\n\n{report(seconds, limits)}"
    print(text)
    if args.rounds >= ROUNDS and not forced_kernel():
        keep(f"{cpu()}, {time.strftime('%F')}", text, seconds)


if __name__ == "__main__":
    with plain_endings():
        main()
