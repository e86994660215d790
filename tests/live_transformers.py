"""Live comparison with transformers, on models/1M and on random models of odd shapes.

    pip install torch==2.13.0 transformers
    python -m pytest tests/live_transformers.py
"""
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import gpt2
import gpt2_kvcache
from utils import load_encoder_hparams_and_params, read_hparams, read_params

MODELS = Path(__file__).parent.parent / "models"
TOLERANCE = 2e-4  # of logits up to 20
SHAPES = {  # n_embd, n_head, n_layer, n_positions, vocab_size
    "one head": (12, 1, 1, 7, 101),
    "a head for each dimension": (10, 10, 2, 33, 64),
    "eleven layers": (24, 3, 11, 50, 257),
    "wide": (320, 5, 2, 300, 999),
}


def close(module_logits, rival, ids):
    with torch.inference_mode():
        expected = rival(torch.tensor([ids])).logits[0, -1].float().numpy()
    np.testing.assert_allclose(module_logits, expected, rtol=0, atol=TOLERANCE)


def compare(rival, params, n_head, ids, n_tokens):
    """Logits of ids, and the n_tokens that follow greedily, against transformers."""
    cache = gpt2_kvcache.kv_cache(params, n_head, len(ids))
    close(gpt2.gpt2(ids, params, n_head), rival, ids)
    close(gpt2_kvcache.gpt2(ids, params, n_head, cache), rival, ids)
    with torch.inference_mode():
        expected = rival.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False,
            max_new_tokens=n_tokens, min_new_tokens=n_tokens, eos_token_id=None, pad_token_id=0,
        )[0, len(ids) :].tolist()
    assert gpt2.generate(ids, params, n_head, n_tokens) == expected
    assert gpt2_kvcache.generate(ids, params, n_head, n_tokens) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_random_model(tmp_path, shape, dtype):
    n_embd, n_head, n_layer, n_positions, vocab_size = shape
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd,
                        n_layer=n_layer, n_head=n_head, initializer_range=0.3)
    model = GPT2LMHeadModel(config).to(dtype).eval()
    for parameter in model.parameters():  # biases too: they start at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    hparams = read_hparams(tmp_path / "config.json")
    params = read_params(tmp_path / "model.safetensors", hparams)
    ids = torch.randint(vocab_size, (n_positions // 2,)).tolist()
    compare(model.float(), params, n_head, ids, n_positions - len(ids))


@pytest.mark.parametrize("n", [1, 4, 100, 400, 511])
def test_the_1m_model(n):
    encoder, hparams, params = load_encoder_hparams_and_params("1M", str(MODELS))
    rival = GPT2LMHeadModel.from_pretrained(MODELS / "1M", dtype=torch.float32).eval()
    ids = np.random.default_rng(n).integers(hparams["n_vocab"], size=n).tolist()
    compare(rival, params, hparams["n_head"], ids, min(30, hparams["n_ctx"] - n))


def test_the_1m_models_tokenizer():
    encoder, _, _ = load_encoder_hparams_and_params("1M", str(MODELS))
    text = "<|endoftext|>There was once  a King,\n\nwho'd 12 sons \u2014 \u0161est \U0001f451!"
    ids = encoder.encode(text)
    assert ids == AutoTokenizer.from_pretrained(MODELS / "1M").encode(text)
    assert encoder.decode(ids) == text
