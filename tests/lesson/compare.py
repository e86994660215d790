"""Print a prompt's continuation, the speed of both files, and whether they agree; in 1M: seconds.

    python tests/lesson/compare.py "The next morning the" --model_size 1M --n_tokens_to_generate 400

400 tokens of 1M take about 5 seconds, 40 tokens of 124M as well, and --n_random 100 some more. The
status is 1 if the files do not agree.
"""
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmark")]

import numpy as np
from measuring import (
    FILES,
    ROUNDING,
    THREAD_NAMES,
    aligned,
    forced_kernel,
    forced_threads,
    machine,
    n_threads,
    ratio,
    shown,
    threads_said,
    timed_generate,
)
from tqdm import tqdm
from weights import n_parameters

from utils import UserError, load_encoder_hparams_and_params, parse, plain_endings

SMALL = 10e6  # parameters; with less than that, threads wait for each other more than they compute
N_AFTER = 3  # tokens to generate after each random prompt
WIDTH = 88


class Agreement(NamedTuple):
    """What two runs had in common: all tokens, or those up to the first that differs."""

    what: str  # in the words of the table's head
    chosen: tuple[int, int]  # the last id that is compared, of gpt2.py and of gpt2_kvcache.py
    differences: np.ndarray  # of each token: the largest difference of a logit
    gaps: np.ndarray  # of each token: the gap of the two likeliest logits of gpt2.py
    rounding: float  # no difference of a logit should be larger

    def ids_differ(self):
        return self.chosen[0] != self.chosen[1]

    def off(self):
        """Numbers of the tokens, from 1, whose logits differ by more than rounding."""
        within = self.differences <= self.rounding  # False for NaN too
        return [i + 1 for i in range(len(within)) if not within[i]]


def generate_by_both(ids, params, n_head, n_tokens):
    """{file: what timed_generate returns}, the faster file first."""
    runs = {}
    for file in reversed(FILES):
        runs[file] = timed_generate(FILES[file], ids, params, n_head, n_tokens)
    return runs


def warm_up(ids, params, n_head):
    """What happens only once in a process: memory is asked for, and tqdm makes a lock (5 ms)."""
    generate_by_both(ids, params, n_head, 1)
    tqdm(disable=True)


def gap(logits):
    """The largest logit minus the second largest."""
    second, first = np.partition(logits, -2)[-2:]
    return first - second


def agreement(what, runs):
    """Compare the runs token by token. After one that differs, the inputs differ as well."""
    ids, logits, _ = runs["gpt2.py"]
    cached_ids, cached_logits, _ = runs["gpt2_kvcache.py"]
    differing = [i for i in range(len(ids)) if ids[i] != cached_ids[i]]
    n = differing[0] + 1 if differing else len(ids)
    differences = [np.abs(a - b).max() for a, b in zip(logits[:n], cached_logits)]
    largest = max(np.abs(row).max() for row in logits[:n])
    return Agreement(what, (ids[n - 1], cached_ids[n - 1]), np.array(differences),
                     np.array([gap(row) for row in logits[:n]]), ROUNDING * largest)


def random_agreements(params, hparams, n_random):
    """The agreement on each of n_random prompts of random ids and any length, always the same."""
    rng, found = np.random.default_rng(0), []
    for i in tqdm(range(n_random), "random prompts ", ncols=WIDTH, unit=" prompts", disable=None):
        n_ids = rng.integers(1, hparams["n_ctx"] - N_AFTER + 1)
        ids = rng.integers(hparams["n_vocab"], size=n_ids).tolist()
        runs = generate_by_both(ids, params, hparams["n_head"], N_AFTER)
        found.append(agreement(f"random prompt {i + 1} ({n_ids} tokens)", runs))
    return found


def speed_table(n_prompt, runs):
    """Both files' times, and their ratio: the two figures as they are shown, divided."""
    seconds = {file: runs[file][2] for file in FILES}
    n = len(seconds["gpt2.py"])
    table = [["", *FILES, "times as fast"]]

    def add(what, *values):
        table.append([what, *map(shown, values)])

    add(f"token 1, ms (prefill, {n_prompt}-token prompt)", *(1e3 * s[0] for s in seconds.values()))
    for i in sorted({2, n} & {*range(2, n + 1)}):
        add(f"token {i}, ms", *(1e3 * s[i - 1] for s in seconds.values()))
    add("all tokens, s", *map(sum, seconds.values()))
    for row in table[1:]:
        row.append(ratio(*row[1:]))
    add("tokens a second", *(n / sum(s) for s in seconds.values()))
    table[-1].append(ratio(*reversed(table[-1][1:])))
    return aligned(table)


def first_wrong(found):
    """The first of these agreements that is none, or None."""
    return next((one for one in found if one.ids_differ() or one.off()), None)


def is_close(found):
    """Whether rounding as large as the largest found might have changed a token."""
    smallest = min(one.gaps.min() for one in found)
    return smallest < 2 * max(one.differences.max() for one in found)


def agreement_table(columns):
    """columns: {head: list of agreements}"""
    table = [["", *columns], ["tokens compared"], ["tokens that differ"],
             ["largest difference of a logit"], ["smallest gap of the two likeliest"]]
    for found in columns.values():
        cells = [str(sum(len(one.gaps) for one in found)),
                 str(sum(one.ids_differ() for one in found)),
                 f"{np.max([one.differences.max() for one in found]):.1e}",
                 f"{min(one.gaps.min() for one in found):.1e}"]
        for row, cell in zip(table[1:], cells):
            row.append(cell)
    return aligned(table)


def verdict(columns, encoder):
    """Yes or no, and where it went wrong first."""
    wrong = list(filter(None, map(first_wrong, columns.values())))
    if wrong:
        return f"NO. In {wrong[0].what} {what_differs(wrong[0], encoder)}"
    text = ("Yes, the same tokens. Their logits differ by rounding, as numbers are added up in "
            "another order. That can change a token only where the gap is less than twice the "
            "difference. ")
    if any(is_close(found) for found in columns.values()):
        return text + "Here one gap is: on another machine these files may choose differently."
    return text + "Here no gap is."


def what_differs(one, encoder):
    """Which token, what each file chose for it, and whether rounding can do that."""
    n, off = len(one.gaps), one.off()
    text = "the tokens are the same, but not their logits. "
    if one.ids_differ():
        right, cached = (f"{i} {encoder.decode([i])!r}" for i in one.chosen)
        text = (f"token {n} differs. gpt2.py chose {right}, gpt2_kvcache.py {cached}. In gpt2.py "
                f"the gap of the two likeliest is {one.gaps[-1]:.1e} there, and the files' logits "
                f"are up to {one.differences[-1]:.1e} apart. ")
    if not off:
        return text + "That can be rounding, as the gap is less than twice the difference."
    return text + (f"That is a bug: rounding stays below {one.rounding:.1e}. From token {off[0]} "
                   f"on they are further apart ({one.differences[off[0] - 1]:.1e}).")


def wrapped(text):
    """The text in lines of at most WIDTH columns."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines())


def conditions(params):
    """What ran it: the machine, and whatever makes its times unusual."""
    lines = [machine()]
    millions = n_parameters(params) / 1e6
    if n_parameters(params) < SMALL and n_threads() == 1:
        lines.append(f"One thread, as the model has only {millions:.1f} million parameters: more "
                     "threads would wait for each other.")
    else:
        lines.append(forced_threads())
    lines.append(forced_kernel())
    return wrapped("\n".join(line for line in lines if line))


def run_again_on_one_thread(prompt):
    """This command once more, as a BLAS reads the number of threads when NumPy is imported."""
    environment = os.environ | dict.fromkeys(THREAD_NAMES, "1")
    command = [sys.executable, *sys.orig_argv[1:]]
    done = subprocess.run(command, env=environment, input=prompt.encode())  # if the prompt is -
    sys.exit(done.returncode)


def compare(prompt, encoder, hparams, params, n_tokens, n_random):
    """All that is printed, and whether the files agree."""
    ids, n_head = encoder.encode(prompt) or encoder.start, hparams["n_head"]
    warm_up(ids, params, n_head)
    runs = generate_by_both(ids, params, n_head, n_tokens)
    columns = {"this text": [agreement("this text", runs)]}
    if n_random:
        columns[f"{n_random} random prompts"] = random_agreements(params, hparams, n_random)
    parts = [wrapped(prompt + encoder.decode(runs["gpt2.py"][0])), speed_table(len(ids), runs),
             f"Is it the same?\n{agreement_table(columns)}", wrapped(verdict(columns, encoder)),
             conditions(params)]
    agree = not any(map(first_wrong, columns.values()))
    return "\n\n".join(parts), agree


def main(prompt, *, n_tokens_to_generate=40, model_size="124M", models_dir=None, n_random=0):
    """Continue a prompt by gpt2_kvcache.py and by gpt2.py: the text, both speeds, and the same?

    Args:
        prompt: The text to continue, in quotes, or - to read it from standard input.
            If it is empty, a new document begins.
        n_tokens_to_generate: How many tokens to add.
        model_size: A folder in models_dir. 1M is there; 124M, 355M, 774M, 1558M are downloaded.
        models_dir: The folder that holds the models; if not given, models/ beside the two files.
        n_random: How many prompts of random tokens to compare too, with 3 tokens after each.
    """
    if not str(n_random).isdecimal():
        raise UserError(f"n_random is a whole number, not {n_random!r}")
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    if n_parameters(params) < SMALL and not threads_said():
        run_again_on_one_thread(prompt)
    text, agree = compare(prompt, encoder, hparams, params, n_tokens_to_generate, int(n_random))
    print(text, flush=True)
    sys.exit(not agree)


if __name__ == "__main__":
    with plain_endings():
        main(**parse(main, sys.argv[1:]))
