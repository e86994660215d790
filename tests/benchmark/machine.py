"""The machine that measures, and what makes its times unusual. Prints nothing."""
import os
import platform
import re
from pathlib import Path

import numpy as np

KERNEL_NAMES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREAD_NAMES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
                "OMP_NUM_THREADS")


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
    """Two lines: the CPU and the system; NumPy, its BLAS and the threads."""
    n = n_threads()
    return (f"{cpu()}, {n_cores()} cores, {platform.system()}, Python "
            f"{platform.python_version()}\n"
            f"NumPy {np.__version__}, {blas()}, {n} thread{'s' if n > 1 else ''}")


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


def load_average():
    """How many processes want to run, over the last minute; 0 where that isn't known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
