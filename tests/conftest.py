"""What several tests share: the model that comes with the repository, and how many threads run it.

One thread, unless the environment says otherwise: the 1M model's matrices are too small to gain
from more, and on a busy machine threads that wait for each other lose a lot.
"""
import os
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

from utils import load_encoder_hparams_and_params  # noqa: E402

# What the README's test command cannot run is left out, not skipped.
has_peer = find_spec("torch") and find_spec("transformers")
collect_ignore = [] if has_peer else ["test_transformers.py"]


@pytest.fixture(scope="session")
def model():
    """models/1M: encoder, params, n_vocab, n_ctx, n_embd, n_head, n_layer."""
    encoder, hparams, params = load_encoder_hparams_and_params("1M")
    return SimpleNamespace(encoder=encoder, params=params, **hparams)
