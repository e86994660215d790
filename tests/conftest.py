"""What several tests share: the model that comes with the repository."""
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils import load_encoder_hparams_and_params

MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="session")
def model():
    """models/1M: encoder, params, n_vocab, n_ctx, n_embd, n_head, n_layer."""
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(MODELS))
    return SimpleNamespace(encoder=encoder, params=params, **hparams)
