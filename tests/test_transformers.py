"""Live comparison with transformers, on random models of odd shapes. 1M's is logits-1M.npz.

Runs with the other tests wherever these are installed:

    pip install torch==2.13.0 transformers==5.24.0
"""
import numpy as np
import pytest
import torch
import transformers

import gpt2
import gpt2_kvcache
from utils import read_hparams, read_params

torch.set_num_threads(1)

SHAPES = {  # dtype of the file, n_embd, n_head, n_layer, n_positions, vocab_size
    "one head": (torch.float32, 12, 1, 2, 7, 101),
    "a head for each dimension": (torch.float16, 10, 10, 2, 33, 64),
    "eleven layers": (torch.bfloat16, 24, 3, 11, 50, 257),
    "as many layers as 1558M": (torch.float32, 30, 5, 48, 17, 99),
    "a vocabulary of 250,000": (torch.float32, 8, 2, 3, 12, 250_000),
    "wide, and attention in halves": (torch.float32, 320, 5, 2, 300, 999),
}


def write_random_model(folder, dtype, n_embd, n_head, n_layer, n_positions, vocab_size):
    """The model of transformers, whose biases are not zero, as they are at first."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=n_layer,
        n_head=n_head, initializer_range=n_embd**-0.5, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model.float()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_random_model_gives_same_logits_and_ids(tmp_path, shape):
    rival = write_random_model(tmp_path, *shape)
    _, _, n_head, _, n_positions, vocab_size = shape
    params = read_params(tmp_path / "model.safetensors", read_hparams(tmp_path / "config.json"))
    n_tokens = min(n_positions - 4, 20)
    ids = torch.randint(vocab_size, (1, n_positions - n_tokens))
    with torch.inference_mode():
        expected = rival(ids).logits[0, -1].numpy()
        whole = rival.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_tokens,
            min_new_tokens=n_tokens, eos_token_id=None, pad_token_id=0)
    ids, expected_ids = ids[0].tolist(), whole[0, -n_tokens:].tolist()

    kv_cache = gpt2_kvcache.empty_kv_cache(params, n_head, len(ids))
    for logits in (gpt2.gpt2(ids, **params, n_head=n_head),
                   gpt2_kvcache.gpt2(ids, **params, n_head=n_head, kv_cache=kv_cache, n_past=0)):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)  # they are up to 20
    for module in gpt2, gpt2_kvcache:
        assert list(module.generate(ids, params, n_head, n_tokens)) == expected_ids
