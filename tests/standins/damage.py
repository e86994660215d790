"""Damages real model files at random: each must then load right or be refused by name.

Right is: shapes as in hparams, all float32, a tokenizer that gives back the text that it is given,
with ids below n_vocab. Refused is: UserError or OSError that names the folder. All else is a
finding, and so is taking longer than a second or 100 MB more than the file, or a message
of more than 300 characters beside the path. A text that needs a missing byte is refused as that.
"""
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
from checkpoints import TF_CHECKPOINT, by_name, pack, shapes, tiny_gpt2, write_model

from utils import UserError, load_encoder_hparams_and_params

FIXTURES = Path(__file__).parents[1] / "fixtures"

TEXT = "The wind in 12 tales,\n     'twas caf\u00e9\0 <|endoftext|>[PAD]<|im_start|>\u6f22"
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 258, 2**31, 2**32, 2**63, 2**64, 10**30]
VALUES = [*NUMBERS, 1.5, 8.0, float("nan"), float("inf"), None, True, False, "", "12", "\ud800",
          "F16", "BF16", "F64", "wte.weight", "<|endoftext|>", "in", [], {}, [0], {"": 0}, [0, 0]]
TOKENS = [b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b" ", b'"', b"\\", b"{",
          b"}", b"[", b",", b":", b"-", b"e9", b"NaN", b"null", b"\\ud800", b"9" * 5000]


def make_targets(parent: Path) -> dict[str, list[tuple[Path, str]]]:
    """What to damage: (folder, file); what is there twice is damaged twice as often."""
    tiny = write_model(parent / "tiny")
    openai = Path(shutil.copytree(TF_CHECKPOINT, parent / "openai"))
    tokenizers = [(openai, "encoder.json"), (openai, "vocab.bpe")]
    for saved in sorted((FIXTURES / "tokenizers").iterdir()):
        folder = write_model(parent / saved.name, tiny_gpt2(n_vocab=340), vocab_size=340)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        tokenizers += [(folder, path.name) for path in sorted(saved.iterdir())
                       if path.name != "special_tokens_map.json"]
    weights = [(tiny, "model.safetensors")] * 7 + [(openai, "model.ckpt.data-00000-of-00001")]
    return {"checkpoints": [*weights, (tiny, "config.json"), (openai, "hparams.json")],
            "tokenizers": tokenizers}


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One small change to a file of any kind."""
    at, n = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, rng.randrange(200)])
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return rng.choice([
        data[:at] + bytes(b ^ 1 << rng.randrange(8) for b in data[at : at + 1]) + data[at + 1 :],
        data[:at] + rng.randbytes(n) + data[at + n :],
        data[:at] + rng.choice(TOKENS) + data[at:],
        data[:at] + re.sub(rb"\d", rng.choice(b"0 1 2 3 8 9".split()), data[at:], count=1),
        data[:at] + data[at + n :],
        data[:at],
        b"\n".join(lines),
    ])


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """One change inside a JSON text: a number, a value, a key, two values swapped."""
    node = tree = json.loads(data)
    while children := [child for child in (node.values() if isinstance(node, dict) else node)
                       if isinstance(child, (dict, list)) and child]:
        if rng.random() < 0.2:
            break
        node = rng.choice(children)
    keys = [*node] if isinstance(node, dict) else range(len(node))
    i, j, kind = rng.choice(keys), rng.choice(keys), rng.randrange(6)
    if kind == 0:
        node[i], node[j] = node[j], node[i]
    elif kind == 1:
        del node[i]
    elif kind == 2 and isinstance(node, dict):
        node[rng.choice([*map(str, VALUES), f"transformer.{i}"])] = node.pop(i)
    elif kind == 3 and isinstance(node, list):
        node.insert(i, rng.choice([node[j], *VALUES]))
    elif type(node[i]) is int and kind < 5:
        near = [node[i] + d for d in (-8, -4, -2, -1, 1, 2, 4, 8)]
        node[i] = rng.choice([*near, 2 * node[i], -node[i], float(node[i]), str(node[i]), *NUMBERS])
    else:
        node[i] = rng.choice(VALUES)
    return json.dumps(tree).encode()


def damage(file: str, data: bytes, rng: random.Random) -> bytes:
    """One to three changes; in safetensors to the header, its length, or anywhere."""
    if file.endswith(".safetensors") and (kind := rng.randrange(5)):
        start = 8 + int.from_bytes(data[:8], "little")
        if kind == 1:
            length = rng.choice([*NUMBERS, *(start + d for d in (-16, -9, -7, 0, len(data)))])
            return (length % 2**64).to_bytes(8, "little") + data[8:]
        return pack(damage(".json", data[8:start], rng), data[start:])
    change = damage_json if file.endswith(".json") and rng.random() < 0.6 else damage_bytes
    for _ in range(rng.randint(1, 3)):
        data = change(data, rng) if len(data) > 4 else data
    return data


def judged(message: str, folder: str) -> str:
    """'refused', or what is wrong with the message."""
    if folder not in message and "no token for byte" not in message:
        return f"refused, but not by name: {message}"
    if len(message.replace(folder, "")) > 300:
        return f"refused at length: {message}"
    return "refused"


def check(folder: Path, file: str) -> str:
    """'loaded', 'refused', or what is wrong. Runs in the main thread; tracemalloc sees memory."""
    allowed = tracemalloc.get_traced_memory()[0] + (folder / file).stat().st_size + 100e6
    tracemalloc.reset_peak()
    signal.signal(signal.SIGPROF, lambda *_: sys.exit("no end after a second"))
    signal.setitimer(signal.ITIMER_PROF, 1)  # CPU time: a busy machine is not a hang
    try:
        encoder, hparams, params = load_encoder_hparams_and_params(folder.name, folder.parent)
        ids = encoder.encode(TEXT)
        found = {name: (array.shape, array.dtype) for name, array in by_name(params).items()}
        if found != {name: (s, np.dtype(np.float32)) for name, s in shapes(**hparams).items()}:
            return f"wrong shapes or dtypes for {hparams}"
        if encoder.decode(ids) != TEXT or any(type(i) is not int for i in ids):
            return f"the tokenizer makes {TEXT!r} {ids} and then {encoder.decode(ids)!r}"
        if not all(0 <= i < hparams["n_vocab"] for i in ids):
            return f"ids beyond n_vocab {hparams['n_vocab']}: {ids}"
        outcome = "loaded"
    except (UserError, OSError) as error:
        outcome = judged(str(error), str(folder))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # out of time, or a panic of tiktoken's: these are no Exceptions
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return outcome if tracemalloc.get_traced_memory()[1] < allowed else f"{outcome}, much memory"


def fuzz(kind: str, seeds):
    """Yield (seed, "folder/file", outcome) for each seed."""
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as parent:
        targets = make_targets(Path(parent))[kind]
        for seed in seeds:
            rng = random.Random(seed)
            folder, file = rng.choice(targets)
            intact = (folder / file).read_bytes()
            (folder / file).write_bytes(damage(file, intact, rng))
            yield seed, f"{folder.name}/{file}", check(folder, file)
            (folder / file).write_bytes(intact)
    tracemalloc.stop()
