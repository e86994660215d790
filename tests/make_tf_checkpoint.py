"""Write tests/fixtures/tf-checkpoint: the files of OpenAI's release, made by TensorFlow itself.

    python tests/make_tf_checkpoint.py    # needs tensorflow

Twelve layers, so that h10 and h11 come before h2; values are drawn() from each tensor's name.
"""
import json
import re
from pathlib import Path

import tensorflow as tf
from checkpoints import TF_CHECKPOINT, drawn, shapes

HPARAMS = {"n_vocab": 280, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 12}
VOCAB = Path(__file__).parent / "gpt2-vocab"


def openai_name(name: str) -> str:
    """h.0.ln_1.weight -> model/h0/ln_1/g"""
    name = re.sub(r"(wte|wpe)\.weight", r"\1", name)
    name = re.sub(r"(ln_\w)\.weight", r"\1.g", name)
    name = name.replace(".weight", ".w").replace(".bias", ".b").replace("h.", "h")
    return "model/" + name.replace(".", "/")


def main():
    TF_CHECKPOINT.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = []
        for name, shape in shapes(**HPARAMS).items():
            value = drawn(name, shape)
            if re.search(r"c_\w+\.weight", name):
                value = value[None]  # OpenAI's linear layers are convolutions of width 1
            variables.append(tf.compat.v1.get_variable(openai_name(name), initializer=value))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, save_relative_paths=True)
        # without its .meta: that holds the graph, and with it every value once more
        saver.save(session, str(TF_CHECKPOINT / "model.ckpt"), write_meta_graph=False)
    (TF_CHECKPOINT / "hparams.json").write_text(json.dumps(HPARAMS, indent=2) + "\n")

    # GPT-2's own vocabulary, up to as many merges as n_vocab leaves room for
    n_merges = HPARAMS["n_vocab"] - 256 - 1
    ids = json.loads((VOCAB / "vocab.json").read_text("utf-8"))
    ids = {token: i for token, i in ids.items() if i < 256 + n_merges}
    ids["<|endoftext|>"] = HPARAMS["n_vocab"] - 1
    (TF_CHECKPOINT / "encoder.json").write_text(json.dumps(ids))
    merges = (VOCAB / "merges.txt").read_text("utf-8").split("\n")[: 1 + n_merges]
    (TF_CHECKPOINT / "vocab.bpe").write_text("\n".join(merges) + "\n", "utf-8")


if __name__ == "__main__":
    main()
