"""Print a prompt's continuation, the speed of both files, and whether they agree; in 1M: seconds.

    python tests/lesson/compare.py "The wolf said" --model_size 1M --n_tokens_to_generate 400
"""
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two on a busy machine wait for each other

import numpy as np
from machine import forced_kernel, load_average, machine, n_cores
from measuring import FILES, ROUNDING, aligned, bar, ratio, shown, spread, timed_generate, wrapped

from utils import check_inputs, load_encoder_hparams_and_params, parse, plain_endings

N_AFTER = 3  # tokens to generate after each random prompt
BUSY = 1  # of the median: times spread wider only where other programs run
SECONDS = 1  # for the first steps


class Token(NamedTuple):
    """A token that both files chose after the same text."""

    where: str
    chosen: int  # by gpt2.py
    cached: int  # by gpt2_kvcache.py
    difference: float  # the largest of a logit
    gap: float  # of the two likeliest, in gpt2.py
    rounding: float  # the difference should not be larger

    def differs(self):
        return self.chosen != self.cached

    def is_bug(self):
        return not self.difference <= self.rounding  # so NaN is one


def compared(what, runs):
    """The tokens of both files' runs, up to the first that differs: then the texts differ, too."""
    run, cached = (runs[file] for file in FILES)
    tokens = []
    for i in range(len(run.ids)):
        logits = run.logits[i]
        second, first = np.partition(logits, -2)[-2:]
        difference = np.abs(logits - cached.logits[i]).max()
        rounding = ROUNDING * np.abs(logits).max()
        tokens.append(Token(f"token {i + 1} of {what}", run.ids[i], cached.ids[i], difference,
                            first - second, rounding))
        if tokens[-1].differs():
            break
    return tokens


def compared_after_random_prompts(params, hparams, n_random):
    """The tokens after n_random prompts of random ids and any length, always the same prompts."""
    rng, tokens = np.random.default_rng(0), []
    for i in bar(range(n_random), "random prompts", unit=" prompts"):
        n_ids = rng.integers(1, hparams["n_ctx"] - N_AFTER + 1)
        ids = rng.integers(hparams["n_vocab"], size=n_ids).tolist()
        runs = {file: timed_generate(module, ids, params, hparams["n_head"], N_AFTER)
                for file, module in FILES.items()}
        tokens += compared(f"random prompt {i + 1} ({n_ids} tokens)", runs)
    return tokens


def time_first_steps(ids, params, n_head):
    """{file: the seconds of its first steps}. The files take turns, for SECONDS."""
    seconds = {file: [] for file in FILES}
    start = time.perf_counter()
    while len(seconds["gpt2.py"]) < 2 or time.perf_counter() < start + SECONDS:
        for file, module in FILES.items():
            seconds[file] += timed_generate(module, ids, params, n_head, 1).seconds
    return {file: several[1:] for file, several in seconds.items()}  # the first was to warm up


def speed_table(n_prompt, seconds):
    """Both files' times, and their ratio. seconds: {file: those of each step}."""
    n, rows = len(seconds["gpt2.py"]), []
    for i in sorted({1, min(2, n), n}):
        rows.append([f"token {i}, ms", *(1e3 * seconds[file][i - 1] for file in FILES)])
    totals = [sum(seconds[file]) for file in FILES]
    rows.append(["all tokens, s", *totals])
    rows.append(["tokens/s", *(n / total for total in totals)])

    table = [[f"prompt of {n_prompt}", *FILES, "times as fast"]]
    for name, *values in rows:
        without, cached = map(shown, values)
        times = ratio(cached, without) if name == "tokens/s" else ratio(without, cached)
        table.append([name, without, cached, times])
    lines = aligned(table).splitlines()
    lines[1] += "  about 1: the same work"
    return "\n".join(lines)


def agreement_table(columns):
    """columns: {head: tokens}"""
    table = [["", *columns], ["tokens compared"], ["tokens that differ"],
             ["largest difference of a logit"], ["smallest gap of the two likeliest"]]
    for tokens in columns.values():
        table[1].append(str(len(tokens)))
        table[2].append(str(sum(token.differs() for token in tokens)))
        table[3].append(f"{np.max([token.difference for token in tokens]):.1e}")
        table[4].append(f"{min(token.gap for token in tokens):.1e}")
    return aligned(table)


def first_wrong(tokens):
    """The first token that differs, in itself or in its logits, or None."""
    for token in tokens:
        if token.differs() or token.is_bug():
            return token
    return None


def verdict(tokens, encoder):
    """Yes or no, and where it went wrong first."""
    wrong = first_wrong(tokens)
    if wrong:
        return f"NO. {what_differs(wrong, encoder)}"
    smallest_gap = min(token.gap for token in tokens)
    is_close = smallest_gap < 2 * max(token.difference for token in tokens)
    return ("Yes, the same tokens. Their logits differ by rounding, as numbers are added up in "
            "another order. That can change a token only where the gap is less than twice the "
            "difference. " + ("Here one gap is: on another machine these files may choose "
                              "differently." if is_close else "Here no gap is."))


def what_differs(token, encoder):
    """What each file chose, and whether rounding can do that."""
    chosen, cached = (f"{i} {encoder.decode([i])!r}" for i in (token.chosen, token.cached))
    text = (f"For {token.where} gpt2.py chose {chosen}, gpt2_kvcache.py {cached}. Their logits are "
            f"up to {token.difference:.1e} apart. ")
    if token.is_bug():
        return text + f"That is a bug: rounding stays below {token.rounding:.1e}."
    return text + (f"That can be rounding: the gap of the two likeliest, {token.gap:.1e}, is less "
                   "than twice that.")


def busy(load, first):
    """A line that says so where other programs disturb the times, or nothing."""
    widest = max(map(spread, first.values()))
    if load < n_cores() / 2 and widest < BUSY:
        return ""
    return (f"This machine is busy, so these times say little: load average {load:.1f}, and the "
            f"times of token 1 spread over {widest:.0%} of their median.")


def conditions(load, first):
    """What ran it: the machine, and whatever makes its times unusual."""
    lines = [machine(), forced_kernel(), busy(load, first)]
    return wrapped("\n".join(line for line in lines if line))


def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None, n_random=0):
    """Continue a prompt by both files: the text, both speeds, and is it the same?

    Both run on one thread, unless OPENBLAS_NUM_THREADS says another number. The
    first step is timed several times, and the median shown. The status is 1 if
    the files do not agree.

    Args:
        prompt: The text to continue, in quotes, or - to read standard input.
            If it is empty, a new document begins.
        n_tokens_to_generate: How many tokens to add.
        model_size: A folder in models_dir. 1M is there; 124M, 355M, 774M and
            1558M are downloaded.
        models_dir: The models' folder; if not given, models/ beside both files.
        n_random: How many prompts of random tokens to compare too, with
            3 tokens after each.
    """
    load = load_average()
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    ids, n_head = encoder.encode(prompt) or encoder.start, hparams["n_head"]
    check_inputs(ids, n_tokens_to_generate, hparams["n_vocab"], hparams["n_ctx"])
    first = time_first_steps(ids, params, n_head)
    runs = {}
    for file in reversed(FILES):
        runs[file] = timed_generate(FILES[file], ids, params, n_head, n_tokens_to_generate, file)

    columns = {"this text": compared("this text", runs)}
    if n_random:
        head = f"{n_random} random prompts"
        columns[head] = compared_after_random_prompts(params, hparams, n_random)
    tokens = sum(columns.values(), [])

    seconds = {file: [median(first[file]), *runs[file].seconds[1:]] for file in FILES}
    print(wrapped(prompt + "".join(encoder.decode_stream(runs["gpt2.py"].ids))),
          speed_table(len(ids), seconds), f"Is it the same?\n{agreement_table(columns)}",
          wrapped(verdict(tokens, encoder)), conditions(load, first), sep="\n\n", flush=True)
    sys.exit(first_wrong(tokens) is not None)


if __name__ == "__main__":
    with plain_endings():
        main(**parse(main, sys.argv[1:]))
