"""What others published of the real 124M weights, greedy. Runs by itself where models/124M is."""
import pytest
from terminal import ROOT

import gpt2
import gpt2_kvcache
from utils import load_encoder_hparams_and_params

FASTGPT = (  # its README
    [36235, 39141, 18765, 1143, 326, 9061, 561, 530, 1110, 1716, 845, 3665, 11, 475, 772, 339, 714,
     407, 5967],
    [703, 484, 561, 307, 1498, 284, 466, 523, 13, 198, 198, 1, 40, 892, 326, 262, 749, 1593, 1517,
     318])
TRANSFORMERS = (  # its own test of GPT-2
    [464, 3290],
    [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464,
     3290])

WEIGHTS = [ROOT / "models/124M/model.safetensors", ROOT / "models/124M/model.ckpt.index"]

pytestmark = [
    pytest.mark.skipif(not any(path.exists() for path in WEIGHTS),
                       reason="needs the real weights in models/124M"),
    pytest.mark.parametrize("module", [gpt2, gpt2_kvcache])]


def test_text_of_picogpts_readme(module):
    prompt = "Alan Turing theorized that computers would one day become"
    assert "".join(module.main(prompt, model_size="124M")).rstrip() == (
        " the most powerful machines on the planet.\n\nThe computer is a machine that can perform "
        "complex calculations, and it can perform these calculations in a way that is very similar "
        "to the human brain.")


@pytest.mark.parametrize("inputs, expected", [FASTGPT, TRANSFORMERS])
def test_published_ids(module, inputs, expected):
    _, hparams, params = load_encoder_hparams_and_params("124M")
    ids = module.generate(inputs, params, hparams["n_head"], len(expected))
    assert list(ids) == expected
