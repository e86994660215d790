"""GPT-2's byte-level BPE tokenizer: tiktoken, with the vocabulary in a model's own folder.

In a vocabulary that BPE has made, ids follow the order of the merges, so the ids can serve as
tiktoken's ranks. Known, and left alone: where a vocabulary holds tokens that its own merges can't
reach, tiktoken may join other halves than the merges name. No public vocabulary is known to differ.
"""
import contextlib
import json
import math
import re
import reprlib
from pathlib import Path

import tiktoken

# GPT-2's rule for cutting text into pieces. Bytes merge within a piece only.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Vocabulary files write each byte as one character. A printable byte is written as itself, and
# the others, in order, as the characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
NOT_PRINTABLE = [*range(33), *range(127, 161), 173]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE}
BYTE_OF |= {chr(256 + i): byte for i, byte in enumerate(NOT_PRINTABLE)}

# Keys that name one special token, or several.
SPECIAL_TOKEN = [
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
]
SPECIAL_TOKENS = [
    "additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens",
]

# Settings that change no id, whatever their value. All others have to be off, or as in GPT-2.
HARMLESS_IN_CONFIG = {
    *SPECIAL_TOKEN, *SPECIAL_TOKENS,
    "added_tokens_decoder", "auto_map", "backend", "chat_template", "clean_up_tokenization_spaces",
    "from_slow", "is_local", "local_files_only", "max_len", "max_length", "merges_file",
    "model_input_names", "model_max_length", "model_type", "name_or_path", "pad_to_multiple_of",
    "pad_token_type_id", "padding", "padding_side", "processor_class", "return_token_type_ids",
    "special_tokens_map_file", "stride", "tokenizer_file", "trim_offsets", "truncation",
    "truncation_side", "truncation_strategy", "use_fast", "verbose", "vocab_file", "vocab_size",
}
HARMLESS_IN_TOKENIZER_JSON = {
    "added_tokens", "decoder", "model", "padding", "post_processor", "pre_tokenizer", "truncation",
    "version",
}
HARMLESS_IN_MODEL = {"dropout", "fuse_unk", "merges", "type", "unk_token", "vocab"}
HARMLESS_IN_TOKEN = {"__type", "content", "id", "normalized", "special"}
GPT2_CLASSES = [
    "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend",
]
AS_IN_GPT2 = {"errors": ["replace"], "tokenizer_class": GPT2_CLASSES}


END = "<|endoftext|>"


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
        vocab, merges, added = read_vocabulary(folder)

        with reading(folder):
            ids = give_ids(folder, vocab, added, n_vocab)
            self.added = {text: ids[text] for text in added if text in ids}
            self.start = [self.added[END]] if END in self.added else []
            self.tokens = {i: spelled_bytes(token) for token, i in vocab.items()}
            ranks = {self.tokens[i]: i for i in mergeable_ids(folder, vocab, merges)}
            self.tokens |= {i: text.encode() for text, i in self.added.items()}

            self._missing = {byte for byte in range(256) if bytes([byte]) not in ranks}
            self._bpe = tiktoken.Encoding(
                "", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

        raw = [text for text in self.added if not added[text].get("normalized", True)]
        self._split_at_raw = splitter(raw)
        self._split_at_any = splitter(self.added)

    def encode(self, text):
        """Ids of text, list[int]. An added token in it, such as <|endoftext|>, is one id."""
        if re.search("[\ud800-\udfff]", text):
            raise UserError("the text is not valid UTF-8")

        ids = []
        for piece in self._split(text):
            if piece in self.added:
                ids.append(self.added[piece])
            else:
                ids += self._encode_ordinary(piece)
        return ids

    def _split(self, text):
        """The added tokens in text, and what stands between them.

        Like transformers, look for "raw" tokens (not normalized) first, then for the others.
        """
        for part in self._split_at_raw(text):
            if part in self.added:
                yield part
            else:
                yield from self._split_at_any(part)

    def _encode_ordinary(self, text):
        """Ids of a text without added tokens."""
        missing = self._missing.intersection(text.encode())
        if missing:
            raise UserError(f"the vocabulary has no token for byte {min(missing)} of the text")
        return self._bpe.encode_ordinary(text)

    def decode(self, ids):
        """Text of ids: bytes that aren't UTF-8 become U+FFFD, unknown ids (padded wte) nothing."""
        pieces = [self.tokens.get(int(i), b"") for i in ids]  # int: NumPy's logits.argmax(), say
        return b"".join(pieces).decode("utf-8", "replace")


def give_ids(folder, vocab, added, n_vocab):
    """{token: id} of all tokens, without added ones whose id is n_vocab or more.

    An added token without an id has the next one, as in transformers.
    """
    ids = dict(vocab)
    for text, token in added.items():
        ids.setdefault(text, token.get("id", len(ids)))
    ids = {token: i for token, i in ids.items() if token in vocab or i < n_vocab}

    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < n_vocab:
            raise UserError(f"{folder}: the id of {brief(token)} is {brief(i)}, of {n_vocab} ids")
    if len(set(ids.values())) < len(ids):
        raise UserError(f"{folder}: two tokens have the same id")
    return ids


def mergeable_ids(folder, vocab, merges):
    """The ids of the single bytes and of the tokens that the merges make."""
    merged_ids = [vocab[first + second] for first, second in merges]
    if merged_ids != sorted(set(merged_ids)):  # strictly rising
        raise UserError(f"{folder}: the ids do not follow the order of the merges")
    return [vocab[character] for character in BYTE_OF if character in vocab] + merged_ids


def spelled_bytes(token):
    """The bytes that a token of the vocabulary spells, or else its text, as UTF-8."""
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def splitter(tokens):
    """A function that cuts a text at tokens, and keeps them; the longest wins."""
    longest_first = sorted(tokens, key=len, reverse=True)
    either = "|".join(re.escape(token) for token in longest_first)
    return re.compile(f"({either or '(?!)'})").split  # (?!) matches nowhere


def brief(value):
    """A value for a message, cut short."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


@contextlib.contextmanager
def reading(path):
    """Makes a UserError that names the file of whatever goes wrong while it is taken apart."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged, or not what belongs there ({problem:.150})") from error


def read_json(path):
    """The dict that a JSON file holds."""
    with reading(path):
        return dict(json.loads(path.read_text("utf-8")))


def read_json_if_there(path):
    """The dict that a JSON file holds, or {} where there is no such file."""
    return read_json(path) if path.exists() else {}


def refuse(path, key, value):
    """Refuse a setting that asks for other ids than GPT-2's."""
    raise UserError(f"{path}: {key:.80} is {brief(value)}, which is not supported")


def check_settings(path, settings, harmless):
    """Refuse a setting that is on, unless it is as in GPT-2 or known to change no id."""
    for key, value in settings.items():
        if value and key not in harmless and value not in AS_IN_GPT2.get(key, []):
            refuse(path, key, value)


def read_vocabulary(folder):
    """{token: id}, the merges as pairs of tokens, and {text: settings} of the added tokens."""
    if (folder / "tokenizer.json").exists():
        vocab, merges, tokens = read_tokenizer_json(folder / "tokenizer.json")
    else:
        vocab, merges = read_vocab_and_merges(folder)
        tokens = read_added_tokens(folder / "added_tokens.json")
    tokens += read_tokenizer_config(folder / "tokenizer_config.json")
    tokens += read_special_tokens_map(folder / "special_tokens_map.json")
    if END in vocab:
        tokens.append({"content": END, "normalized": False})

    added = {}
    with reading(folder):
        for token in tokens:
            text = token["content"]
            added[text] = token | added.get(text, {})  # what was said first holds
        added.pop("", None)  # an empty token would be found between all letters
        check_end_of_merges(folder, vocab, merges, added)
    return vocab, merges, added


def read_tokenizer_json(path):
    """What tokenizer.json says: {token: id}, the merges as pairs, the added tokens as dicts."""
    saved = read_json(path)
    with reading(path):
        check_settings(path, saved, HARMLESS_IN_TOKENIZER_JSON)
        check_steps(path, saved)

        model = saved["model"]
        if model.get("type", "BPE") != "BPE":
            refuse(path, "model", model["type"])
        check_settings(path, model, HARMLESS_IN_MODEL)

        merges = [as_pair(merge) for merge in model["merges"]]
        tokens = [as_token(path, entry) for entry in saved.get("added_tokens") or []]
        return dict(model["vocab"]), merges, tokens


def check_steps(path, saved):
    """Refuse steps before and after the merging that GPT-2 does not have."""
    cutting = saved.get("pre_tokenizer") or {}
    if cutting.get("type") != "ByteLevel":
        refuse(path, "pre_tokenizer", cutting)
    if not cutting.get("use_regex", True):
        refuse(path, "use_regex", False)
    check_settings(path, cutting, {"type", "use_regex", "trim_offsets"})

    if not adds_nothing(saved.get("post_processor")):
        refuse(path, "post_processor", saved["post_processor"])

    decoder = saved.get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        refuse(path, "decoder", decoder)


def adds_nothing(step):
    """Whether a post_processor leaves the ids as they are."""
    if step is None or step["type"] == "ByteLevel":
        return True
    if step["type"] == "Sequence":
        return all(adds_nothing(inner) for inner in step["processors"])
    if step["type"] == "TemplateProcessing":
        return all("Sequence" in item for item in step["single"])
    return False


def read_vocab_and_merges(folder):
    """{token: id} and the merges as pairs, from Hugging Face's two files or from OpenAI's."""
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    if not vocab_path.exists() and (folder / "encoder.json").exists():
        vocab_path, merges_path = folder / "encoder.json", folder / "vocab.bpe"

    vocab = read_json(vocab_path)
    with reading(merges_path):
        lines = merges_path.read_text("utf-8").splitlines()
        merges = [as_pair(line) for line in lines if line and not line.startswith("#version")]
    return vocab, merges


def as_pair(merge):
    """("a", "b") of a merge that is written "a b" or ["a", "b"]."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def check_end_of_merges(folder, vocab, merges, added):
    """Refuse merges that end before the vocabulary does, as in a file that was copied in part.

    Only words tell: tokens such as <pad> may stand in a vocabulary without a merge.
    """
    last = vocab["".join(merges[-1])] if merges else -1
    beyond = [token for token, i in vocab.items() if i > last and token not in added]
    words = [token for token in beyond if len(token) > 1 and token.isalpha()]
    if words:
        raise UserError(f"{folder}: no merge makes {brief(words[0])}: is the list of merges cut "
                        "short?")


def read_added_tokens(path):
    """The tokens of added_tokens.json as dicts."""
    return [{"content": text, "id": i} for text, i in read_json_if_there(path).items()]


def read_tokenizer_config(path):
    """The tokens that tokenizer_config.json adds or names, as dicts. Its settings are checked."""
    config = read_json_if_there(path)
    with reading(path):
        check_settings(path, config, HARMLESS_IN_CONFIG)
        tokens = []
        for i, entry in config.get("added_tokens_decoder", {}).items():
            tokens.append(as_token(path, entry) | {"id": int(i)})
        return tokens + named_tokens(path, config)


def read_special_tokens_map(path):
    """The tokens that special_tokens_map.json names, as dicts."""
    names = read_json_if_there(path)
    with reading(path):
        check_settings(path, names, SPECIAL_TOKEN + SPECIAL_TOKENS)
        return named_tokens(path, names)


def named_tokens(path, settings):
    """The special tokens that a file names, as dicts."""
    entries = [settings.get(key) for key in SPECIAL_TOKEN]
    for key in SPECIAL_TOKENS:
        several = settings.get(key) or []
        entries += several.values() if isinstance(several, dict) else several
    return [{"normalized": False} | as_token(path, entry) for entry in entries if entry]


def as_token(path, entry):
    """An added token as a dict. entry is its text, or a dict with settings, which must be off."""
    token = {"content": entry} if isinstance(entry, str) else dict(entry)
    check_settings(path, token, HARMLESS_IN_TOKEN)
    return token
