"""Live comparison with transformers, on models/1M and on random models of odd shapes.

Runs with the other tests wherever these are installed:

    pip install torch==2.13.0 transformers==5.24.0
"""
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import gpt2
import gpt2_kvcache
from utils import read_hparams, read_params

torch.set_num_threads(1)

MODEL_1M = Path(__file__).parent.parent / "models/1M"
SHAPES = {  # dtype of the file, n_embd, n_head, n_layer, n_positions, vocab_size
    "one head": (torch.float32, 12, 1, 2, 7, 101),
    "a head for each dimension": (torch.float16, 10, 10, 2, 33, 64),
    "eleven layers": (torch.bfloat16, 24, 3, 11, 50, 257),
    "as many layers as 1558M": (torch.float32, 30, 5, 48, 17, 99),
    "a vocabulary of 250,000": (torch.float32, 8, 2, 3, 12, 250_000),
    "wide, and attention in halves": (torch.float32, 320, 5, 2, 300, 999),
}


def compare(rival, params, n_head, ids, n_tokens):
    """Logits of ids, and the n_tokens that follow greedily."""
    kv_cache = gpt2_kvcache.empty_kv_cache(params, n_head, len(ids))
    without = gpt2.gpt2(ids, **params, n_head=n_head)
    cached = gpt2_kvcache.gpt2(ids, **params, n_head=n_head, kv_cache=kv_cache, n_past=0)
    with torch.inference_mode():
        expected = rival(torch.tensor([ids])).logits[0, -1].numpy()
        expected_ids = rival.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False,
            max_new_tokens=n_tokens, min_new_tokens=n_tokens, eos_token_id=None, pad_token_id=0,
        )[0, len(ids) :].tolist()
    np.testing.assert_allclose(without, expected, rtol=0, atol=1e-4)  # they are up to 20
    np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-4)
    assert list(gpt2.generate(ids, params, n_head, n_tokens)) == expected_ids
    assert list(gpt2_kvcache.generate(ids, params, n_head, n_tokens)) == expected_ids


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_random_model_gives_same_logits_and_ids(tmp_path, shape):
    dtype, n_embd, n_head, n_layer, n_positions, vocab_size = shape
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=n_layer,
        n_head=n_head, initializer_range=n_embd**-0.5, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).to(dtype).eval()
    for parameter in model.parameters():  # biases too: they start at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    params = read_params(tmp_path / "model.safetensors", read_hparams(tmp_path / "config.json"))
    n_tokens = min(n_positions - 4, 20)
    ids = torch.randint(vocab_size, (n_positions - n_tokens,)).tolist()
    compare(model.float(), params, n_head, ids, n_tokens)


@pytest.mark.parametrize("n_ids", [1, 4, 400, 511])
def test_1m_model_gives_same_logits_and_ids(model, n_ids):
    rival = transformers.GPT2LMHeadModel.from_pretrained(MODEL_1M, dtype=torch.float32).eval()
    ids = np.random.default_rng(n_ids).integers(2048, size=n_ids).tolist()
    compare(rival, model.params, 4, ids, min(20, 512 - n_ids))


def test_1m_tokenizer_gives_same_ids(model):
    text = "<|endoftext|>There was once  a King,\n\nwho'd 12 sons \u2014 \u0161est \U0001f451!"
    ids = transformers.AutoTokenizer.from_pretrained(MODEL_1M).encode(text)
    assert model.encoder.encode(text) == ids
