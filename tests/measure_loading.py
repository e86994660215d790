"""Print how long loading a model of the 124M shape takes, against reading the same file as it is.

    python tests/measure_loading.py

The file is as published in all but its values: float32, twelve masks, data at an odd offset. Both
read it from the page cache, in turn. The peak is that of a process of its own. Linux only.
"""
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from checkpoints import header_of, pack, shapes, write_config  # noqa: E402

from utils import load_encoder_hparams_and_params, read_hparams, read_params  # noqa: E402

HPARAMS = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
N = 7


def write_124m(folder: Path):
    rng = np.random.default_rng(0)
    mask = np.tri(1024, dtype=np.float32)[None, None]
    tensors = {f"h.{i}.attn.bias": ("F32", mask) for i in range(HPARAMS["n_layer"])}
    for name, shape in shapes(**HPARAMS).items():
        tensors[name] = "F32", rng.standard_normal(shape, np.float32) * np.float32(0.02)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(pack(header_of(tensors), b""))
        assert file.tell() % 2 == 1
        for _, array in tensors.values():
            array.tofile(file)
    write_config(folder / "config.json", vocab_size=HPARAMS["n_vocab"], n_positions=1024,
                 n_embd=768, n_head=12, n_layer=12)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(HERE / "gpt2-vocab" / name, folder)


def seconds(call, *args) -> float:
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def peak() -> int:
    """Bytes. Not ru_maxrss: a process starts with the peak of the one that started it."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_124m(folder)
        weights, hparams = folder / "model.safetensors", read_hparams(folder / "config.json")
        calls = {
            "np.fromfile of the file": (np.fromfile, weights, np.uint8),
            "weights": (read_params, weights, hparams),
            "weights and tokenizer": (load_encoder_hparams_and_params, folder.name, folder.parent),
        }
        times = {name: [] for name in calls}
        for _ in range(1 + N):
            for name, call in calls.items():
                times[name].append(seconds(*call))
        times = {name: statistics.median(all[1:]) for name, all in times.items()}
        for name, median in times.items():
            ratio = median / times["np.fromfile of the file"]
            print(f"{name}: {median:.3f} s, ratio {ratio:.2f} (median of {N})")

        grown = subprocess.run([sys.executable, __file__, folder], check=True, capture_output=True)
        floats = 4 * sum(int(np.prod(shape)) for shape in shapes(**hparams).values())
        limit = floats + 4 * hparams["n_vocab"] * hparams["n_embd"] + 100e6
        print(f"peak of the weights: {int(grown.stdout) / 1e6:.0f} MB; the weights are "
              f"{floats / 1e6:.0f} MB, and with the largest tensor and 100 MB {limit / 1e6:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        folder, before = Path(sys.argv[1]), peak()
        params = read_params(folder / "model.safetensors", read_hparams(folder / "config.json"))
        print(peak() - before)
