"""Damage real model files at random: each must then load right or be refused by name.

    python tests/fuzz.py --n 10000              # a finding is printed with its seed;
    python tests/fuzz.py --n 1 --seed 1234      # this runs it again

Right is: shapes as in hparams, all float32, a tokenizer that gives back what it is given. Refused
is: ValueError that names the file, or for a tokenizer its folder. All else is a finding, and so is
taking longer than a second or 100 MB more than the file. Exits with 1 if there are findings.
"""
import argparse
import collections
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

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from checkpoints import TF_CHECKPOINT, by_name, pack, shapes, tiny_gpt2, write_model  # noqa: E402

from utils import load_encoder_hparams_and_params  # noqa: E402

SECONDS, MEMORY = 1, 100e6
TEXT = "The wind: 12 tales,\n  'twas caf\u00e9\u0007 <|endoftext|>"
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 2**64, 10**30]
VALUES = [*NUMBERS, 1.5, 8.0, -0.0, 1e308, float("nan"), float("inf"), None, True, False, "", "12",
          "\ud800", "\0", "F16", "BF16", "F64", "wte.weight", "<|endoftext|>", [], {}, [0], [[]],
          {"": 0}, [0, 0], [-1, -1]]
TOKENS = [b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b" ", b'"', b"\\", b"{",
          b"}", b"[", b"]", b",", b":", b"-", b"e9", b"NaN", b"null", b"\\ud800", b"[" * 100_000,
          b'{"a":' * 100_000, b"9" * 5000, b"\xc4\xa0"]


class Hang(BaseException):
    """Out of time. Not an Exception, so that no one handles it."""


def out_of_time(*_):
    raise Hang(f"no end after {SECONDS} s")


def make_folders(parent: Path) -> list[tuple[int, Path, str]]:
    """(weight, folder, file): what to damage, and how often."""
    roomy = tiny_gpt2(n_vocab=300)  # room for ids that are not taken
    tiny = write_model(parent / "tiny", roomy, vocab_size=300)
    openai = Path(shutil.copytree(TF_CHECKPOINT, parent / "openai"))
    shutil.copytree(HERE.parent / "models" / "1M", parent / "1M")

    saved = write_model(parent / "saved", roomy, vocab_size=300)  # as transformers 5 does
    vocab = json.loads((saved / "vocab.json").read_text("utf-8"))
    merges = (saved / "merges.txt").read_text("utf-8").split("\n")[1:-1]
    (saved / "tokenizer.json").write_text(json.dumps({
        "added_tokens": [{"id": 279, "content": "<|endoftext|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [pair.split(" ") for pair in merges]},
    }))
    (saved / "vocab.json").unlink()
    (saved / "merges.txt").unlink()

    targets = [
        (60, tiny, "model.safetensors"), (8, tiny, "config.json"), (4, tiny, "vocab.json"),
        (4, tiny, "merges.txt"), (8, saved, "tokenizer.json"),
        (3, openai, "model.ckpt.data-00000-of-00001"), (3, openai, "hparams.json"),
        (2, openai, "encoder.json"), (2, openai, "vocab.bpe"),
        (3, parent / "1M", "model.safetensors"), (1, parent / "1M", "config.json"),
        (1, parent / "1M", "vocab.json"), (1, parent / "1M", "merges.txt"),
    ]
    for i, found in enumerate(sorted((HERE / "fixtures").glob("**/tokenizer.json"))):
        ids = [*json.loads(found.read_text("utf-8"))["model"]["vocab"].values()]
        n_vocab = max(ids) + 100  # room for added tokens
        folder = write_model(parent / f"found{i}", tiny_gpt2(n_vocab=n_vocab), vocab_size=n_vocab)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
        shutil.copy(found, folder)
        targets.append((2, folder, "tokenizer.json"))
    return targets


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One small change to a file of any kind."""
    at, length = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, rng.randrange(200)])
    match rng.randrange(7):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + rng.randbytes(length) + data[at + length :]
        case 2:
            return data[: rng.choice([at, at, at, 0])]
        case 3:
            return data[:at] + rng.choice([*TOKENS, rng.randbytes(length)]) + data[at:]
        case 4:
            return data[:at] + data[at + length :]
        case 5:  # two lines change places
            lines = data.split(b"\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            return b"\n".join(lines)
        case _:
            digit = rng.choice("0123456789").encode()
            return data[:at] + re.sub(rb"\d", digit, data[at:], count=1)


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """One change inside a JSON text: a number, a value, a key, two keys or values swapped."""
    tree = json.loads(data)
    node = tree
    while True:
        children = [*node.values()] if isinstance(node, dict) else node
        children = [child for child in children if isinstance(child, (dict, list)) and child]
        if not children or rng.random() < 0.2:
            break
        node = rng.choice(children)
    keys = [*node] if isinstance(node, dict) else range(len(node))
    i, j = rng.choice(keys), rng.choice(keys)
    kind = rng.randrange(6)
    if kind == 0:
        node[i], node[j] = node[j], node[i]
    elif kind == 1:
        del node[i]
    elif kind == 2 and isinstance(node, dict):
        value = node.pop(i) if rng.random() < 0.5 else rng.choice([rng.randrange(300), *VALUES])
        node[rng.choice([*map(str, VALUES), f"transformer.{i}", f"{i}x"])] = value
    elif kind == 3 and isinstance(node, list):
        node.insert(i, rng.choice([node[j], *VALUES]))
    elif kind < 5 and type(node[i]) is int:
        near = [node[i] + d for d in (-8, -4, -2, -1, 1, 2, 4, 8)] + [2 * node[i], -node[i]]
        node[i] = rng.choice([*near, node[i] // 2, float(node[i]), str(node[i]), *NUMBERS])
    else:
        node[i] = rng.choice(VALUES)
    return json.dumps(tree).encode()


def damage_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A change to the length field, the header (most often), or anywhere."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = data[8:start], data[start:]
    kind = rng.randrange(10)
    if kind < 4:
        return pack(damage_json(header, rng), body)
    if kind < 7:
        return pack(damage_bytes(header, rng), body)
    if kind < 8:
        length = rng.choice([*NUMBERS, *(start - 8 + d for d in (-8, -1, 1, 8, len(body)))])
        return (length % 2**64).to_bytes(8, "little") + header + body
    if kind < 9:
        return data[: rng.choice([rng.randrange(len(data)), rng.randrange(start)])]
    return damage_bytes(data, rng)


def damage(file: str, data: bytes, rng: random.Random) -> bytes:
    if file.endswith(".safetensors"):
        return damage_safetensors(data, rng)
    if file.endswith(".json") and rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            data = damage_json(data, rng) if json.loads(data) else data
        return data
    for _ in range(rng.randint(1, 3)):
        data = damage_bytes(data, rng)
    return data


def check(folder: Path, file: str) -> str:
    """'loaded', 'refused', or what is wrong. Runs in the main thread; tracemalloc sees memory."""
    size = (folder / file).stat().st_size
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    signal.signal(signal.SIGPROF, out_of_time)
    # CPU time: a busy machine is not a hang
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        encoder, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
        signal.setitimer(signal.ITIMER_PROF, 0)
        found = {name: (array.shape, array.dtype) for name, array in by_name(params).items()}
        right = {name: (s, np.dtype(np.float32)) for name, s in shapes(**hparams).items()}
        ids = encoder.encode(TEXT)
        if found != right or {type(n) for n in hparams.values()} != {int}:
            return f"wrong shapes or dtypes for {hparams}"
        if encoder.decode(ids) != TEXT or not all(0 <= i < hparams["n_vocab"] for i in ids):
            return f"the tokenizer makes {TEXT!r} {ids} and then {encoder.decode(ids)!r}"
        outcome = "loaded"
    except ValueError as error:
        weights = file in ("model.safetensors", "model.ckpt.data-00000-of-00001")
        if str(folder / file if weights else folder) not in str(error):
            return f"refused, but not by name: {error!r}"
        outcome = "refused"
    except BaseException as error:  # tiktoken's panics are no Exceptions either
        if isinstance(error, KeyboardInterrupt):
            raise
        return repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = tracemalloc.get_traced_memory()[1] - before
    return outcome if taken < size + MEMORY else f"{outcome}, but took {taken / 1e6:.0f} MB"


def fuzz(seeds):
    """Yield (seed, folder, file, outcome) for each seed."""
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as parent:
            targets = make_folders(Path(parent))
            for _, folder, file in targets:
                assert check(folder, file) == "loaded", f"{folder}, undamaged"
            for seed in seeds:
                rng = random.Random(seed)
                _, folder, file = rng.choices(targets, [weight for weight, *_ in targets])[0]
                intact = (folder / file).read_bytes()
                (folder / file).write_bytes(damage(file, intact, rng))
                yield seed, folder.name, file, check(folder, file)
                (folder / file).write_bytes(intact)
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first of n")
    args = parser.parse_args()
    counts, by_file = collections.Counter(), collections.Counter()
    for seed, folder, file, outcome in fuzz(range(args.seed, args.seed + args.n)):
        if outcome not in ("loaded", "refused"):
            print(f"seed {seed}: {folder}/{file}: {outcome}", flush=True)
            outcome = "findings"
        counts[outcome] += 1
        by_file[f"{folder}/{file}"] += 1
    print(", ".join(f"{file} {n}" for file, n in by_file.most_common()))
    print(", ".join(f"{counts[name]} {name}" for name in ("loaded", "refused", "findings")))
    sys.exit(counts["findings"] > 0)
