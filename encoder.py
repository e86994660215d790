"""GPT-2's byte-level BPE tokenizer: tiktoken, with the vocabulary in a model's own folder."""
import math
import re
from pathlib import Path

import tiktoken

from utils import UserError, read_json, reading

# GPT-2's rule for cutting text into the pieces within which bytes may merge.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Vocabulary files spell a byte as one visible character: the 188 printable ones as themselves, the
# others, in order, as the characters from 256 on.
_BYTES = sorted(range(256), key=lambda b: not chr(b).isprintable() or chr(b) == " ")
BYTE_OF = {chr(b if i < 188 else 256 + i - 188): b for i, b in enumerate(_BYTES)}
NOT_DONE = ("lstrip", "rstrip", "single_word", "add_prefix_space", "add_bos_token", "add_eos_token",
            "normalizer", "pre_tokenizer", "post_processor")


class Encoder:
    """The vocabulary in folder, without added tokens that have ids from n_vocab up."""

    def __init__(self, folder, n_vocab=math.inf):
        with reading(folder):
            vocab, merges, added = _read_vocabulary(Path(folder))
            merged = [*BYTE_OF, *(first + second for first, second in merges)]
            bytes_of = {token: bytes(BYTE_OF[c] for c in token) for token in merged}
            ids = {t: i for t, i in (added | vocab).items() if t in bytes_of or t and i < n_vocab}
            if len({i for i in ids.values() if type(i) is int and 0 <= i < n_vocab}) < len(ids):
                raise UserError(f"{folder}: not each token has an id of its own below {n_vocab}")
            if lost := [t for t in ids if t.isalpha() and t not in bytes_of and t not in added]:
                raise UserError(f"{folder}: no merge makes {lost[0]!r}: are the merges cut short?")
            self.tokens = {i: bytes_of.get(token, token.encode()) for token, i in ids.items()}
            self.added = {token: ids[token] for token in added if token in ids}
            self.start = [i for token, i in self.added.items() if token == "<|endoftext|>"]
            # tiktoken's ids are ranks, in the order of the merges; the vocabulary's may be others.
            self._ids = [ids[token] for token in bytes_of]
            ranks = {text: rank for rank, text in enumerate(bytes_of.values())}
        self._bpe = tiktoken.Encoding("", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        # The longest first: where one added token begins another, tiktoken would take any.
        longest_first = sorted(map(re.escape, self.added), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(longest_first) or '(?!)'})").split

    def encode(self, text):
        """Ids of text, list[int]; an added token in it, <|endoftext|> above all, is one id."""
        if re.search("[\ud800-\udfff]", text):
            raise UserError("the text is not valid UTF-8")
        ids = []
        for piece in self._split(text):
            ranks = [] if piece in self.added else self._bpe.encode_ordinary(piece)
            ids += [self.added[piece]] if piece in self.added else [self._ids[r] for r in ranks]
        return ids

    def decode(self, ids):
        """Text of ids: bytes that aren't UTF-8 become U+FFFD, unknown ids (padded wte) nothing."""
        return b"".join(self.tokens.get(int(i), b"") for i in ids).decode("utf-8", "replace")


def _read_vocabulary(folder):
    """{token: id}, the merges as pairs of tokens, and {added token: id}."""
    def read(name):
        return read_json(folder / name) if (folder / name).exists() else {}

    config, saved = read("tokenizer_config.json"), read("tokenizer.json")
    flagged = {int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}
    listed, pre, post = (saved.get(key) or {} for key in ("added_tokens", "pre_tokenizer",
                                                          "post_processor"))
    odd = {"pre_tokenizer": pre.get("type", "ByteLevel") != "ByteLevel",
           "post_processor": post.get("special_tokens"), "normalizer": saved.get("normalizer")}
    for name, parts in (("tokenizer_config.json", [config, *flagged.values()]),
                        ("tokenizer.json", [odd, pre, *listed])):
        if wrong := [key for part in parts for key in NOT_DONE if part.get(key)]:
            raise UserError(f"{folder / name}: {wrong[0]} asks for what is not done here")
    if saved:
        vocab, merges = saved["model"]["vocab"], saved["model"]["merges"]
        added = {token["content"]: token["id"] for token in listed}
    else:
        names = ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")
        vocab_file, merges_file = names[(folder / "encoder.json").exists()]
        vocab, lines = read_json(folder / vocab_file), (folder / merges_file).read_text("utf-8")
        merges = [s for s in lines.splitlines() if s and not s.startswith("#version")]
        added = read("added_tokens.json") | {token["content"]: i for i, token in flagged.items()}
    pairs = [merge.split() if isinstance(merge, str) else merge for merge in merges]
    named = [value for key, value in config.items() if key.endswith("_token")]
    named = ["<|endoftext|>", *(t["content"] if isinstance(t, dict) else t for t in named)]
    return vocab, pairs, added | {token: vocab[token] for token in named if token in vocab}
