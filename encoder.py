"""GPT-2's byte-level BPE tokenizer: tiktoken, with the vocabulary in a model's own folder.

Ids are those of transformers; a setting that would change them is refused.
Known, and left alone: tiktoken joins any two halves of a token, not only those that a merge names.
Where training made the merges, that is the same; no public vocabulary is known to differ.
"""
import codecs
import contextlib
import json
import math
import re
from pathlib import Path

import tiktoken

# GPT-2's rule for cutting text into pieces. Bytes merge within a piece only.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Vocabulary files write each byte as one letter. A printable byte is written as itself, and
# the others, in order, as the characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
NOT_PRINTABLE = [*range(33), *range(127, 161), 173]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE}
BYTE_OF |= {chr(256 + i): byte for i, byte in enumerate(NOT_PRINTABLE)}

END = "<|endoftext|>"

# Keys that hold several special tokens. A key that ends in _token may hold one.
SPECIAL_TOKENS = [
    "additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens",
]

# The settings that can change ids or text, each with the values that leave them as in GPT-2.
OFF = [None, False, ""]
GPT2_CLASSES = [
    "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend",
]
CONFIG = {
    "add_prefix_space": OFF, "split_special_tokens": OFF, "tokenizer_class": [None, *GPT2_CLASSES],
}
CONFIG_WITHOUT_TOKENIZER_JSON = CONFIG | {"add_bos_token": OFF, "add_eos_token": OFF}
TOKENIZER_JSON = {
    "normalizer": [None, {"type": "Sequence", "normalizers": []}],
    "pre_tokenizer": {"type": ["ByteLevel"], "add_prefix_space": OFF, "use_regex": [None, True]},
    "model": {
        "type": [None, "BPE"], "dropout": OFF, "continuing_subword_prefix": OFF,
        "end_of_word_suffix": OFF, "ignore_merges": OFF,
    },
    "decoder": {"type": ["ByteLevel"]},
}
ADDED_TOKEN = {"lstrip": OFF, "rstrip": OFF, "single_word": OFF}


class UserError(ValueError):
    """Something that a user can put right: an argument, a prompt, a file."""


class Encoder:
    """Text to ids and back, with the vocabulary in a model's folder.

    n_vocab: how many ids the model has; an added token with an id beyond is left out.
    tokens is {id: bytes}, added {text: id}; start is [the id that begins a document], or [].
    UserError (a ValueError) and OSError name the file that can't be used.
    """

    def __init__(self, folder, n_vocab=math.inf):
        folder = Path(folder)
        with reading(folder):
            vocab, merged, added = read_vocabulary(folder)
            self.added = ids_of_added(vocab, added, n_vocab)
            check_vocabulary(folder, vocab, merged, self.added, n_vocab)

            spelled = {token: spelled_bytes(token) for token in [*BYTE_OF, *vocab]}
            self.tokens = {i: spelled[token] for token, i in vocab.items()}
            self.tokens |= {i: text.encode() for text, i in self.added.items()}
            self.start = [self.added[END]] if END in self.added else []

            # tiktoken's own ids are ranks: the bytes, then what the merges make, in their order.
            by_rank = [*BYTE_OF, *merged]
            ranks = {spelled[token]: rank for rank, token in enumerate(by_rank)}
            self._id_of_rank = [vocab.get(token) for token in by_rank]  # None: a byte without id
            self._bpe = tiktoken.Encoding(
                "", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

        # Like transformers, look for "raw" tokens (not normalized) first, then for the others.
        raw = [text for text in self.added if not added[text].get("normalized", True)]
        self._raw_tokens = any_of(raw)
        self._added_tokens = any_of(self.added)

    def encode(self, text):
        """Ids of text, list[int]. An added token in it, such as <|endoftext|>, is one id."""
        if re.search("[\ud800-\udfff]", text):
            raise UserError("the text is not valid UTF-8")

        ids = []
        for piece in self._split(text):
            if piece in self.added:
                ids.append(self.added[piece])
            else:
                ids += [self._id_of_rank[rank] for rank in self._bpe.encode_ordinary(piece)]

        if None in ids:
            raise UserError("the vocabulary has no token for some bytes of the text")
        return ids

    def _split(self, text):
        """The added tokens in text, and what is between. Raw ones are found first."""
        for part in self._raw_tokens.split(text):
            if part in self.added:
                yield part
            else:
                yield from self._added_tokens.split(part)

    def decode(self, ids):
        """Text of ids: bytes that aren't UTF-8 become U+FFFD, unknown ids (padded wte) nothing."""
        pieces = [self.tokens.get(int(i), b"") for i in ids]  # int: NumPy's logits.argmax(), say
        return b"".join(pieces).decode("utf-8", "replace")

    def decode_stream(self, ids):
        """Yields a piece of text for each id as it comes, up to <|endoftext|>, where it stops.

        A letter of several tokens comes with its last one; the others yield "".
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            if i in self.start:
                break
            yield decoder.decode(self.tokens.get(int(i), b""))

        rest = decoder.decode(b"", final=True)  # of a letter that was cut off
        if rest:
            yield rest


def ids_of_added(vocab, added, n_vocab):
    """{text: id} of the added tokens. One without an id has the next one, as in transformers."""
    ids = dict(vocab)
    for text, token in added.items():
        ids.setdefault(text, token.get("id", len(ids)))
    return {text: ids[text] for text in added if ids[text] < n_vocab}


def check_vocabulary(folder, vocab, merged, added, n_vocab):
    """Refuse ids that the model doesn't have, an id of two tokens, and merges cut short."""
    ids = [*(vocab | added).values()]
    if min(ids) < 0 or max(ids) >= n_vocab:
        raise UserError(f"{folder}: ids {min(ids)} to {max(ids)} don't fit a model of {n_vocab}")
    if len(set(ids)) < len(ids):
        raise UserError(f"{folder}: two tokens have the same id")

    made = {*merged, *added}
    for token in vocab:
        # Only words tell: tokens such as <pad> may stand in a vocabulary without a merge.
        if len(token) > 1 and token.isalpha() and token not in made:
            raise UserError(f"{folder}: no merge makes {brief(token)}: are the merges cut short?")


def spelled_bytes(token):
    """The bytes that a token of the vocabulary spells, or else its text, as UTF-8."""
    try:
        return bytes([BYTE_OF[letter] for letter in token])
    except KeyError:
        return token.encode()


def any_of(tokens):
    """A pattern that finds any of the tokens, the longest first. Its split() keeps them."""
    longest_first = sorted(tokens, key=len, reverse=True)
    either = "|".join(re.escape(token) for token in longest_first)
    return re.compile(f"({either or '(?!)'})")  # (?!) is found nowhere


def brief(value):
    """A value for a message, cut short."""
    return f"{value!r:.100}"


@contextlib.contextmanager
def reading(path):
    """Turns whatever goes wrong while a file is taken apart into a UserError that names it."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged, or not what belongs there ({problem:.150})") from error


def read_json(path, required=True):
    """The dict that a JSON file holds, or {} where a file that isn't required is missing."""
    if not required and not path.exists():
        return {}
    with reading(path):
        return dict(json.loads(path.read_text("utf-8")))


def check(where, settings, supported):
    """Refuse settings that ask for other ids than GPT-2's."""
    for key, values in supported.items():
        value = settings.get(key)
        if isinstance(values, dict):
            check(f"{where}: {key}", value or {}, values)
        elif value not in values:
            raise UserError(f"{where}: {key} is {brief(value)}, which is not supported")


def read_vocabulary(folder):
    """{token: id}, the tokens that the merges make, and {text: settings} of the added tokens."""
    if (folder / "tokenizer.json").exists():
        vocab, merged, tokens = read_tokenizer_json(folder / "tokenizer.json")
        supported = CONFIG
    else:
        vocab, merged = read_vocab_and_merges(folder)
        ids = read_json(folder / "added_tokens.json", required=False)
        tokens = [{"content": text, "id": i} for text, i in ids.items()]
        supported = CONFIG_WITHOUT_TOKENIZER_JSON

    tokens += read_config(folder / "tokenizer_config.json", supported)
    tokens += read_config(folder / "special_tokens_map.json", supported)
    if END in vocab:
        tokens.append({"content": END, "normalized": False})

    added = {}
    for token in tokens:
        text = token["content"]
        added[text] = token | added.get(text, {})  # what was said first holds
    added.pop("", None)  # an empty token would be found between all letters
    return vocab, merged, added


def read_tokenizer_json(path):
    """{token: id}, the tokens that the merges make, and the added tokens as dicts."""
    saved = read_json(path)
    with reading(path):
        check(path, saved, TOKENIZER_JSON)
        step = saved.get("post_processor")
        if step and not adds_nothing(step):
            raise UserError(f"{path}: post_processor is {brief(step)}, which is not supported")

        model = saved["model"]
        merged = ["".join(merge).replace(" ", "") for merge in model["merges"]]  # "a b", ["a", "b"]
        tokens = [as_token(path, entry) for entry in saved.get("added_tokens") or []]
        return dict(model["vocab"]), merged, tokens


def adds_nothing(step):
    """Whether a post_processor leaves the ids as they are."""
    if step["type"] == "Sequence":
        return all(adds_nothing(inner) for inner in step["processors"])
    if step["type"] == "TemplateProcessing":
        return all("Sequence" in item for item in step["single"])
    return step["type"] == "ByteLevel"


def read_vocab_and_merges(folder):
    """{token: id} and the tokens that the merges make, from Hugging Face's files or OpenAI's."""
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    if not vocab_path.exists() and (folder / "encoder.json").exists():
        vocab_path, merges_path = folder / "encoder.json", folder / "vocab.bpe"

    with reading(merges_path):
        lines = merges_path.read_text("utf-8").splitlines()
    merges = [line for line in lines if not line.startswith("#version")]
    return read_json(vocab_path), [merge.replace(" ", "") for merge in merges if merge]


def read_config(path, supported):
    """The tokens that a file of settings adds or names, as dicts."""
    config = read_json(path, required=False)
    with reading(path):
        check(path, config, supported)
        added = config.get("added_tokens_decoder") or {}
        tokens = [as_token(path, entry, id=int(i)) for i, entry in added.items()]

        named = [value for key, value in config.items() if key.endswith("_token")]
        for key in SPECIAL_TOKENS:
            several = config.get(key) or []
            named += several.values() if isinstance(several, dict) else several

        named = [entry for entry in named if isinstance(entry, (str, dict))]  # no True, no null
        return tokens + [as_token(path, entry, normalized=False) for entry in named]


def as_token(path, entry, **defaults):
    """An added token as a dict. entry is its text, or a dict; defaults hold for the rest."""
    token = {"content": entry} if isinstance(entry, str) else entry
    check(path, token, ADDED_TOKEN)
    return defaults | token
