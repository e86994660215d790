"""What several tests share: two models, where modules are found, and how many threads run.

One thread, unless the environment says otherwise: these models' matrices are too small to gain
from more, and on a busy machine threads that wait for each other lose a lot.
"""
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

TESTS = Path(__file__).parent
FOLDERS = [TESTS.parent, TESTS / "standins", TESTS / "benchmark", TESTS / "lesson"]
sys.path[:0] = [str(folder) for folder in FOLDERS]

from checkpoints import tiny_gpt2, write_model  # noqa: E402

from utils import load_encoder_hparams_and_params  # noqa: E402

# What the README's test command cannot run is left out, not skipped.
has_peer = find_spec("torch") and find_spec("transformers")
collect_ignore = [] if has_peer else ["test_transformers.py", "test_peers.py"]


def load(model_size, models_dir=None):
    """encoder, params, n_vocab, n_ctx, n_embd, n_head, n_layer of a model."""
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    return SimpleNamespace(encoder=encoder, params=params, models_dir=models_dir, **hparams)


@pytest.fixture(scope="session")
def model():
    """models/1M, which is trained."""
    return load("1M")


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    """A random model whose sizes are all different (d_head is 5): no two can be mixed up.

    Its context is longer than two of attention's halves.
    """
    sizes = {"n_embd": 20, "n_head": 4, "n_layer": 3}
    tensors = {}
    for name, (dtype, array) in tiny_gpt2(n_vocab=301, n_ctx=277, **sizes).items():
        small = 8 if name.endswith("bias") else 2  # so that no token is always the likeliest
        tensors[name] = dtype, array / small
    models_dir = tmp_path_factory.mktemp("models")
    write_model(models_dir / "odd", tensors, vocab_size=301, n_positions=277, **sizes)
    return load("odd", models_dir)
