"""encoder.py: the ids of transformers for what people have, and a clear refusal of all else.

fixtures/make_tokenizers.py wrote the folders and encodings.json. Added tokens there are four and
eight spaces, and "in", which the vocabulary has; 4.33-slow-added has them in added_tokens.json.
What is said here of transformers was tried with 5.24.
"""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TF_CHECKPOINT

from encoder import BYTE_OF, Encoder
from utils import UserError

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "encodings.json").read_text("utf-8"))
FOLDERS = {folder.name: folder for folder in sorted((FIXTURES / "tokenizers").iterdir())}
FOLDERS |= {"gpt2": FIXTURES / "gpt2-vocab", "1M": FIXTURES.parent.parent / "models" / "1M"}
OLD, SLOW, FAST, NEW = "4.33-slow-added", "4.57-slow-added", "4.57-fast-added", "5.23-added"
GPT2, SMALL = Encoder(FOLDERS["gpt2"]), Encoder(FOLDERS[SLOW])
TEXT = SMALL.decode(range(256, 325))  # it needs each of the 63 merges and each added token
TOKENIZER, CONFIG, NAMES = "tokenizer", "tokenizer_config", "special_tokens_map"


def changed(parent, vocabulary, file, place, value):
    """A copy of a vocabulary's folder in which a JSON file has another value in one place."""
    folder = shutil.copytree(FOLDERS[vocabulary], parent / "copy")
    path = folder / f"{file}.json"
    content = json.loads(path.read_text("utf-8"))
    part = content
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    path.write_text(json.dumps(content))
    return folder


def letters(parent, *tokens, merges="", **files):
    """A folder with a vocabulary of the 256 bytes and these tokens; files {name: what it holds}."""
    folder = parent / "letters"
    folder.mkdir()
    vocab = {token: i for i, token in enumerate([*BYTE_OF, *tokens])}
    for name, content in {"vocab": vocab, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "merges.txt").write_text(merges, "utf-8")
    return folder


def refusal(folder, n_vocab=10**6):
    """What is said where a folder is refused, without its path: that stands before the file."""
    with pytest.raises(UserError) as raised:
        Encoder(folder, n_vocab)
    said = str(raised.value)
    assert str(folder) in said
    return said.replace(str(folder), "")


# Ids and texts


@pytest.mark.parametrize("vocabulary", FOLDERS)
def test_encode_gives_the_ints_that_transformers_gives_and_decode_undoes_it(vocabulary):
    encoder = Encoder(FOLDERS[vocabulary])
    for name, expected in EXPECTED["encode"].items():
        ids = encoder.encode(expected["text"])
        assert ids == expected[vocabulary] and {*map(type, ids)} <= {int}, name
        assert encoder.decode(ids) == expected["text"], name


@pytest.mark.parametrize("vocabulary", EXPECTED["decode"])
def test_bytes_that_are_not_utf8_decode_as_in_transformers(vocabulary):
    encoder = Encoder(FOLDERS[vocabulary])
    for sequence, (ids, text) in EXPECTED["decode"][vocabulary].items():
        assert encoder.decode(ids) == text, sequence
        assert "".join(encoder.decode_stream(ids)) == text, sequence


def test_decode_leaves_out_unknown_ids_and_takes_numpys():
    ids = np.array([464, 50257, -1, 3290])
    assert GPT2.decode(ids) == "".join(GPT2.decode_stream(ids)) == "The dog"


@pytest.mark.parametrize("text, problem", [("bad", "no token"), ("b\ud83d", "UTF-8")])
def test_text_that_has_no_ids_is_refused(tmp_path, text, problem):
    encoder = Encoder(letters(tmp_path, vocab={"b": 0, "d": 1}))
    assert encoder.encode("bdb") == [0, 1, 0]
    with pytest.raises(UserError, match=problem):
        encoder.encode(text)


def test_document_starts_with_endoftext_if_the_vocabulary_has_it(tmp_path):
    assert Encoder(TF_CHECKPOINT).start == [279]  # its files have OpenAI's names
    assert Encoder(letters(tmp_path)).start == []


def test_letter_of_several_tokens_comes_with_its_last():
    ids = SMALL.encode("a\u6f22\U0001f451b")
    pieces = ["a", "", "", "\u6f22", "", "", "", "\U0001f451", "b"]
    assert list(SMALL.decode_stream(ids)) == pieces
    assert list(SMALL.decode_stream(ids[:3])) == ["a", "", "", "\ufffd"]


def test_stream_gives_each_piece_at_once_and_takes_no_id_after_endoftext():
    ids = iter(GPT2.encode("The big dog<|endoftext|>The cat"))
    pieces = GPT2.decode_stream(ids)
    assert next(pieces) == "The"
    assert GPT2.decode([next(ids)]) == " big"  # it was not taken yet
    assert list(pieces) == [" dog"]
    assert GPT2.decode(ids) == "The cat"


# Vocabularies


MERGES = "a b\nb c\na bc\nab c\nc d\n# #\n"  # two of them make abc


@pytest.mark.parametrize("merges", [
    MERGES, f"#version: 0.2\n{MERGES}", MERGES.replace("\n", "\r\n\r\n")])
def test_merges_are_the_same_however_their_file_and_the_ids_are_ordered(tmp_path, merges):
    encoder = Encoder(letters(tmp_path, "##", "cd", "abc", "bc", "ab", merges=merges))
    assert encoder.encode("abcd bcd ab##") == [258, 67, 220, 259, 67, 220, 260, 256]


def test_250_112_ids(tmp_path):
    many = [f"<{i}>" for i in range(249_856)]
    folder = letters(tmp_path, *many, special_tokens_map={"pad_token": "<249855>"})
    assert Encoder(folder, 250_112).encode("<249855>") == [250_111]


def test_token_that_spells_no_bytes_and_added_one_are_decoded_as_their_text(tmp_path):
    encoder = Encoder(letters(tmp_path, "<\u6f22>", added_tokens={"\u00e9t\u00e9": 257}))
    assert encoder.decode([256, 257]) == "<\u6f22>\u00e9t\u00e9"
    assert encoder.encode("l'\u00e9t\u00e9") == [75, 6, 257]


DAMAGED = {
    "a merge of what has no id": ("merges.txt", b"h e\n"),
    "a long merge": ("merges.txt", b"a" * 9999 + b" b\n"),
    "merges cut short": ("vocab.json", b'{"h": 0, "e": 1, "he": 2}'),
    "an id twice": ("vocab.json", b'{"a": 0, "b": 0}'),
    "an id of another": ("added_tokens.json", b'{"<a>": 5}'),
    "an id below 0": ("added_tokens.json", b'{"<a>": -1}'),
    "an id that is text": ("added_tokens.json", b'{"<a>": "256"}'),
    "not UTF-8": ("added_tokens.json", b'{"\xff": 256}'),
    "not JSON": ("tokenizer_config.json", b"{"),
    "no text": ("tokenizer_config.json", b'{"pad_token": {"contents": "<pad>"}}'),
    "a long value": ("tokenizer_config.json", b'{"add_prefix_space": "%s"}' % (b"y" * 9999)),
}


@pytest.mark.parametrize("file, content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused_in_a_few_words(tmp_path, file, content):
    folder = letters(tmp_path)
    (folder / file).write_bytes(content)
    assert len(refusal(folder)) < 300


# Added tokens


@pytest.mark.parametrize("file, content", [
    (NAMES, {"my_own_token": "PAD"}),
    (CONFIG, {"pad_token": {"content": "PAD"}}),
    (CONFIG, {"additional_special_tokens": ["PAD"]}),
    (CONFIG, {"extra_special_tokens": ["PAD"]}),
    (CONFIG, {"extra_special_tokens": {"x_token": "PAD"}}),
    (CONFIG, {"model_specific_special_tokens": {"x": "PAD"}}),
])
def test_token_that_a_file_names_is_one_id_and_needs_no_merge(tmp_path, file, content):
    assert Encoder(letters(tmp_path, "PAD", **{file: content})).encode("aPADb") == [64, 256, 65]


def test_named_token_without_an_id_has_the_next_one_if_the_model_has_it(tmp_path):
    folder = letters(tmp_path, special_tokens_map={"pad_token": "<pad>"})
    assert Encoder(folder, 257).encode("<pad>") == [256]
    assert len(Encoder(folder, 256).encode("<pad>")) == 5
    refusal(folder, 255)  # the vocabulary alone has more


RAW = {"content": "<s>", "normalized": False}
NORMALIZED = {"content": "<s>", "normalized": True}


@pytest.mark.parametrize("added, named, expected", [
    ({}, "<s>", 256),
    ({}, NORMALIZED, 257),
    ({"256": {"content": "<s>"}}, None, 257),
    ({"256": RAW}, None, 256),
    ({"256": NORMALIZED}, "<s>", 257),  # what is said first holds
])
def test_raw_tokens_come_before_longer_ones(tmp_path, added, named, expected):
    """As transformers does: it looks for tokens that are not normalized first."""
    config = {"added_tokens_decoder": added, "pad_token": named}
    folder = letters(tmp_path, "<s>", added_tokens={"[<s>]": 257}, tokenizer_config=config)
    assert expected in Encoder(folder).encode("x[<s>]y")


# Settings


NO_STEP, SOME_TEXT = {"type": "ByteLevel"}, {"Sequence": {"id": "A"}}
TEMPLATE = {"type": "TemplateProcessing", "single": [SOME_TEXT]}
ADDS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, SOME_TEXT]}


@pytest.mark.parametrize("vocabulary, file, place, value", [
    (FAST, CONFIG, ["tokenizer_class"], None),
    (FAST, CONFIG, ["tokenizer_class"], "GPT2TokenizerFast"),
    (FAST, CONFIG, ["tokenizer_class"], "PreTrainedTokenizerFast"),
    (FAST, CONFIG, ["tokenizer_class"], "TokenizersBackend"),
    (FAST, CONFIG, ["add_bos_token"], True),  # tokenizer.json decides that
    (FAST, CONFIG, ["add_eos_token"], True),
    (FAST, "vocab", ["he"], 999),  # so here
    (SLOW, CONFIG, ["add_prefix_space"], None),
    (SLOW, CONFIG, ["use_auth_token"], True),
    (SLOW, CONFIG, ["my_own_token"], None),
    (SLOW, CONFIG, ["eos_token_id"], 64),
    (SLOW, CONFIG, ["special_tokens"], ["e"]),
    (SLOW, CONFIG, ["model_max_length"], 4),
    (SLOW, CONFIG, ["additional_special_tokens"], None),
    (NEW, CONFIG, ["added_tokens_decoder"], None),
    (OLD, "added_tokens", [""], 330),
    (FAST, TOKENIZER, ["truncation"], {"max_length": 4}),
    (FAST, TOKENIZER, ["normalizer"], {"type": "Sequence", "normalizers": []}),
    (FAST, TOKENIZER, ["pre_tokenizer", "use_regex"], None),
    (FAST, TOKENIZER, ["model", "type"], None),
    (FAST, TOKENIZER, ["model", "dropout"], 0.0),
    (FAST, TOKENIZER, ["model", "byte_fallback"], True),
    (FAST, TOKENIZER, ["post_processor"], None),
    (FAST, TOKENIZER, ["post_processor"], TEMPLATE | {"pair": ADDS["single"]}),
    (FAST, TOKENIZER, ["post_processor"], {"type": "Sequence", "processors": [NO_STEP]}),
])
def test_settings_that_change_no_id_are_accepted(tmp_path, vocabulary, file, place, value):
    folder = changed(tmp_path, vocabulary, file, place, value)
    assert Encoder(folder).encode(TEXT) == Encoder(FOLDERS[vocabulary]).encode(TEXT)


@pytest.mark.parametrize("vocabulary, file, place, value", [
    (SLOW, CONFIG, ["add_bos_token"], True),
    (SLOW, CONFIG, ["add_eos_token"], True),
    (FAST, CONFIG, ["add_prefix_space"], True),
    (FAST, CONFIG, ["split_special_tokens"], True),
    (FAST, CONFIG, ["tokenizer_class"], "CLIPTokenizer"),
    (FAST, CONFIG, ["added_tokens_decoder", "259", "lstrip"], True),
    (FAST, NAMES, ["pad_token", "rstrip"], True),
    (FAST, TOKENIZER, ["added_tokens", 0, "single_word"], True),
    (FAST, TOKENIZER, ["normalizer"], {"type": "Lowercase"}),
    (FAST, TOKENIZER, ["pre_tokenizer"], None),
    (FAST, TOKENIZER, ["pre_tokenizer", "add_prefix_space"], True),
    (FAST, TOKENIZER, ["pre_tokenizer", "use_regex"], False),
    (FAST, TOKENIZER, ["decoder"], None),
    (FAST, TOKENIZER, ["model", "type"], "WordPiece"),
    (FAST, TOKENIZER, ["model", "dropout"], 0.1),
    (FAST, TOKENIZER, ["model", "continuing_subword_prefix"], "##"),
    (FAST, TOKENIZER, ["model", "end_of_word_suffix"], "</w>"),
    (FAST, TOKENIZER, ["model", "ignore_merges"], True),
    (FAST, TOKENIZER, ["post_processor"], {"type": "Sequence", "processors": [NO_STEP, ADDS]}),
    (FAST, TOKENIZER, ["post_processor"], {"type": "RobertaProcessing"}),
])
def test_settings_that_change_ids_are_refused_by_file_and_key(
        tmp_path, vocabulary, file, place, value):
    said = refusal(changed(tmp_path, vocabulary, file, place, value))
    assert said.startswith(f"/{file}.json: ") and place[-1] in said
