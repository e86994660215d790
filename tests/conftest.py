"""What several tests share: the model that comes with the repository, and how many threads run it.

One thread, unless the environment says otherwise: the 1M model's matrices are too small to gain
from more, and on a busy machine threads that wait for each other lose a lot.
"""
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

from utils import load_encoder_hparams_and_params  # noqa: E402

MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="session")
def model():
    """models/1M: encoder, params, n_vocab, n_ctx, n_embd, n_head, n_layer."""
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(MODELS))
    return SimpleNamespace(encoder=encoder, params=params, **hparams)
