"""GPT-2's byte-level BPE tokenizer: tiktoken, on the vocabulary in a model's own folder."""
import json
import re
from pathlib import Path

import tiktoken

# GPT-2's rule for cutting text into the pieces within which bytes may merge.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Vocabulary files spell a byte as one visible character: printable ones as themselves, the others,
# in order, as the characters from 256 on.
_VISIBLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
BYTE_OF = {chr(b): b for b in _VISIBLE}
BYTE_OF |= {chr(256 + i): b for i, b in enumerate(sorted({*range(256)} - {*_VISIBLE}))}


class Encoder:
    """encode(str) -> list[int] and decode(list[int]) -> str, with the vocabulary in folder.

    That is vocab.json and merges.txt, OpenAI's encoder.json and vocab.bpe, or tokenizer.json.
    Raises ValueError for files that are damaged or that tiktoken can't hold, OSError if unreadable.
    """

    def __init__(self, folder):
        try:
            vocab, merges, added = _read_vocabulary(Path(folder))
            merged = [first + second for first, second in merges]
            merged_ids = [vocab[token] for token in merged]
            if merged_ids != sorted(set(merged_ids)):  # tiktoken merges in the order of the ids
                raise ValueError("the ids do not follow the order of the merges")
            plain = {*BYTE_OF, *merged}
            ranks = {bytes(map(BYTE_OF.get, token)): vocab[token] for token in plain}
            special = {t: i for t, i in vocab.items() if t not in plain} | added
            for token in special:
                if not re.fullmatch(r"<.+>|\[.+\]", token) and token not in added or not token:
                    raise ValueError(f"no merge makes the token {token!r}: are all merges there?")
            self.tokens = {i: t for t, i in [*ranks.items(), *special.items()]}
            if len(self.tokens) != len(ranks) + len(special):
                raise ValueError("two tokens share an id")
            if not all(type(i) is int for i in self.tokens):
                raise ValueError("an id is not a whole number")
            # Not data_gym_to_mergeable_bpe_ranks, which serves files from a cache, even stale ones.
            self._bpe = tiktoken.Encoding(
                "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
            )
        except KeyError as error:
            raise ValueError(f"{folder}: the tokenizer's files lack {error}") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError,
                IsADirectoryError) as error:
            raise ValueError(f"{folder}: not a tokenizer that can be used: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of text; a special token in it, <|endoftext|> above all, is one id."""
        return self._bpe.encode(text, allowed_special="all")

    def decode(self, ids) -> str:
        """Text of ids: bytes that aren't UTF-8 become U+FFFD, unknown ids (padded wte) nothing."""
        return self._bpe.decode([int(i) for i in ids if i in self.tokens])


def _read_vocabulary(folder: Path) -> tuple[dict, list, dict]:
    """{token: id}, the merges as pairs of tokens, and special tokens kept apart as {token: id}."""
    for vocab, merges in ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"):
        if (folder / vocab).is_file():
            pairs = (folder / merges).read_text("utf-8").split("\n")
            pairs = [pair for pair in pairs[pairs[0].startswith("#version") :] if pair]
            return json.loads((folder / vocab).read_text("utf-8")), map(str.split, pairs), {}
    if not (folder / "tokenizer.json").is_file():
        raise ValueError("no vocab.json, encoder.json or tokenizer.json")
    saved = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    split = {"add_prefix_space": False, "use_regex": True} | saved["pre_tokenizer"]
    split = split["type"], split["add_prefix_space"], split["use_regex"], saved["normalizer"]
    if split != ("ByteLevel", False, True, None):
        raise ValueError("tokenizer.json changes or splits text in another way than GPT-2's")
    pairs = [m.split(" ") if isinstance(m, str) else m for m in saved["model"]["merges"]]
    return saved["model"]["vocab"], pairs, {t["content"]: t["id"] for t in saved["added_tokens"]}
