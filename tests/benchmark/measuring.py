"""What compare.py, benchmark.py and draw_race.py share: clock, machine, tables. Prints nothing."""
import math
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import gpt2
import gpt2_kvcache

FILES = {"gpt2.py": gpt2, "gpt2_kvcache.py": gpt2_kvcache}
ROUNDING = 1e-4  # of the largest logit: sums that are added up in another order differ by far less
KERNEL_NAMES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREAD_NAMES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
                "OMP_NUM_THREADS")


class Run(NamedTuple):
    """What one call of generate() gave."""

    ids: list[int]  # the new ones
    logits: list | None  # behind each of them, float32 [n_vocab]; None where they aren't known
    seconds: list[float]  # that each of them took; the first ran the whole prompt


def timed_generate(module, ids, params, n_head, n_tokens):
    """The Run of a model file's generate(): a step lasts from one id to the next."""
    forward, logits, new, ends = module.gpt2, [], [], [time.perf_counter()]

    def recorded(*args, **kwargs):
        logits.append(forward(*args, **kwargs))
        return logits[-1]

    with mock.patch.object(module, "gpt2", recorded):
        for i in module.generate(ids, params, n_head, n_tokens):
            ends.append(time.perf_counter())
            new.append(i)
    return Run(new, logits, np.diff(ends).tolist())


def cpu():
    """The CPU's name; where that says little ("AMD EPYC"), its family and model too."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text() if path.exists() else ""
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", lines, re.MULTILINE))
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and not re.search(r"\d\d", name):
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def n_cores():
    """The cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()


def threads_said():
    """What the environment says about the number of threads: ["OPENBLAS_NUM_THREADS=1"], or []."""
    return [f"{name}={os.environ[name]}" for name in THREAD_NAMES if os.environ.get(name)]


def n_threads():
    """Those of the BLAS: what the environment says first, or all cores."""
    said = threads_said()
    return int(said[0].split("=")[1]) if said else n_cores()


def blas():
    """The BLAS of this NumPy, and the kernel that it chose if threadpoolctl is there to tell."""
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{built['name']} {built['version']}"
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return name
    chosen = [library["architecture"] for library in threadpool_info()
              if library["user_api"] == "blas" and library.get("architecture")]
    return f"{name}, kernel {chosen[0]}" if chosen else name


def machine():
    """Two lines: the CPU and its cores; the BLAS and its threads."""
    n = n_threads()
    return (f"{cpu()}, {n_cores()} cores, {platform.system()}\n"
            f"Python {platform.python_version()}, NumPy {np.__version__}, {blas()}, "
            f"{n} thread{'s' if n > 1 else ''}")


def forced_kernel():
    """A line that says so where the environment forces the BLAS's kernel, or nothing."""
    said = [f"{name}={os.environ[name]}" for name in KERNEL_NAMES if os.environ.get(name)]
    if not said:
        return ""
    return (f"{' '.join(said)} is set, which forces how the BLAS computes: these times say little "
            "about this machine.")


def forced_threads():
    """A line that says so where the environment sets another number of threads, or nothing."""
    if n_threads() == n_cores():
        return ""
    return f"{' '.join(threads_said())} is set: without it the BLAS would use {n_cores()} threads."


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


def load_average():
    """How many processes want to run, over the last minute; nothing where that isn't known."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
