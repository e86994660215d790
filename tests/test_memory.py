"""Loading weights takes the memory that they need, and of what is stored one tensor at a time."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import shapes, write_safetensors

HPARAMS = {"n_vocab": 2048, "n_ctx": 64, "n_embd": 512, "n_head": 8, "n_layer": 6}
SLACK = 10e6  # for what allocators keep: an eighth of the weights, so that no second copy fits in

# Not resource's ru_maxrss: on Linux a process starts with the peak of the one that started it.
LOAD = """
import json, re, sys
from pathlib import Path
from utils import read_params

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
params = read_params(Path(sys.argv[1]), json.loads(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.parametrize("dtype, stored", [("F32", "f4"), ("F16", "f2"), ("BF16", "u2")])
def test_peak_is_the_weights_and_one_stored_tensor(tmp_path, dtype, stored):
    tensors = {n: (dtype, np.ones(s, stored)) for n, s in shapes(**HPARAMS).items()}
    mask = np.ones((1, 1, 1024, 1024), stored)
    masks = {f"h.{i}.attn.bias": (dtype, mask) for i in range(HPARAMS["n_layer"])}
    write_safetensors(tmp_path / "model.safetensors", tensors | masks)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "model.safetensors", json.dumps(HPARAMS)],
        cwd=Path(__file__).parent.parent, capture_output=True, encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    weights = 4 * sum(array.size for _, array in tensors.values())
    largest = max(array.nbytes for _, array in tensors.values())
    assert weights - SLACK < int(done.stdout) < weights + largest + SLACK
