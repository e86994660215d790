"""Make fixtures/logits-1M.npz: what transformers computes for models/1M, in float32.

    pip install torch==2.13.0 transformers
    python tests/make_logits.py
"""
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

HERE = Path(__file__).parent
PROMPTS = ["Once upon a time", "The next morning", "<|endoftext|>", "\n'No,' said the fox;", "x"]

model = GPT2LMHeadModel.from_pretrained(HERE.parent / "models/1M", dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(HERE.parent / "models/1M")
rng = np.random.default_rng(0)
inputs = [tokenizer.encode(prompt) for prompt in PROMPTS]
inputs += [rng.integers(2048, size=n).tolist() for n in (2, 31, 257, 511, 512)]
with torch.inference_mode():
    logits = [model(torch.tensor([ids])).logits[0, -1].numpy() for ids in inputs]
np.savez_compressed(HERE / "fixtures/logits-1M.npz", logits=np.array(logits),
                    **{f"inputs_{i}": np.array(ids, np.int16) for i, ids in enumerate(inputs)})
