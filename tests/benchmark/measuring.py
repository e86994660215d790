"""The clock, the tables and the start of the programs here and in ../lesson."""
import argparse
import math
import textwrap
import time
from typing import NamedTuple
from unittest import mock

import numpy as np
from tqdm import tqdm

import gpt2
import gpt2_kvcache
from utils import plain_endings

FILES = {"gpt2.py": gpt2, "gpt2_kvcache.py": gpt2_kvcache}
ROUNDING = 1e-4  # of the largest logit: sums that are added up in another order differ by far less
WIDTH = 79


class Run(NamedTuple):
    """What one call of generate() gave."""

    ids: list[int]  # the new ones
    logits: list | None  # behind each of them, float32 [n_vocab]; None where they aren't known
    seconds: list[float]  # that each of them took; the first ran the whole prompt


def clocked(steps):
    """All that an iterator yields, and the seconds that each took."""
    found, ends = [], [time.perf_counter()]
    for step in steps:
        ends.append(time.perf_counter())
        found.append(step)
    return found, np.diff(ends).tolist()


def timed_generate(module, ids, params, n_head, n_tokens, label=None):
    """The Run of a model file's generate(). On a terminal label names a bar, which goes at last."""
    forward, logits = module.gpt2, []

    def recorded(*args, **kwargs):
        logits.append(forward(*args, **kwargs))
        return logits[-1]

    steps = module.generate(ids, params, n_head, n_tokens)
    if label:
        steps = bar(steps, label, n_tokens, unit=" tokens")
    with mock.patch.object(module, "gpt2", recorded):
        new, seconds = clocked(steps)
    return Run(new, logits, seconds)


def bar(steps, label, total=None, **options):
    """tqdm's bar: as wide as the terminal, gone when done, none where stderr is no terminal."""
    return tqdm(steps, label, total, leave=False, dynamic_ncols=True, disable=None, **options)


def run_program(main, doc):
    """Run main, which has no options. --help prints doc; Ctrl-C and errors end in plain words."""
    with plain_endings():
        argparse.ArgumentParser(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
        main()


def spread(seconds):
    """How far repeated times lie apart, all but the lowest and the highest tenth, in medians."""
    low, middle, high = np.quantile(seconds, (0.1, 0.5, 0.9))
    return (high - low) / middle


def shown(value):
    """A positive number, with three digits: 0.0123, 1.23, 12.3, 1,230."""
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def ratio(text, other):
    """Of two figures as they are shown, so that the reader who divides them gets the same."""
    return shown(float(text.replace(",", "")) / float(other.replace(",", "")))


def aligned(rows):
    """Rows of text as columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def wrapped(text):
    """The text in lines of at most WIDTH columns."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines())
