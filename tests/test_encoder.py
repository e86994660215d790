"""encoder.py: the same ids and text as transformers' GPT-2 tokenizer, any vocabulary, clear errors.

fixtures/encodings.json holds what is expected; make_encodings.py made it.
"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import Encoder

HERE = Path(__file__).parent
MODEL = HERE.parent / "models" / "1M"
EXPECTED = json.loads((HERE / "fixtures" / "encodings.json").read_text("utf-8"))
SMALL = json.loads((HERE / "fixtures" / "tokenizer.json").read_text("utf-8"))
GPT2 = Encoder(HERE / "gpt2-vocab")
ENCODERS = {"gpt2": GPT2, "1M": Encoder(MODEL), "small": Encoder(HERE / "fixtures")}


def write(folder: Path, vocab: dict, merges: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return folder


def read(folder: Path) -> tuple[dict, list[str]]:
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
    return json.loads((folder / "vocab.json").read_text("utf-8")), merges


def save(folder: Path, tokenizer: dict) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def small() -> dict:
    return json.loads(json.dumps(SMALL))


def assert_encodes(encoder: Encoder, vocabulary: str, but=()):
    for name, expected in EXPECTED["encode"].items():
        if name not in but:
            assert encoder.encode(expected["text"]) == expected[vocabulary], name


# Ids and text

@pytest.mark.parametrize("vocabulary", ENCODERS)
@pytest.mark.parametrize("name", EXPECTED["encode"])
def test_encode_gives_the_ids_of_transformers(name, vocabulary):
    expected = EXPECTED["encode"][name]
    assert ENCODERS[vocabulary].encode(expected["text"]) == expected[vocabulary]


@pytest.mark.parametrize("vocabulary", ENCODERS)
def test_decode_gives_the_text_of_transformers_for_bytes_and_broken_utf8(vocabulary):
    for sequence, (ids, text) in EXPECTED["decode"][vocabulary].items():
        assert ENCODERS[vocabulary].decode(ids) == text, sequence


@pytest.mark.parametrize("vocabulary", ENCODERS)
def test_ids_of_a_character_cut_short_decode_to_a_replacement_character(vocabulary):
    encoder = ENCODERS[vocabulary]
    ids = encoder.encode("\U00020000")
    assert len(ids) > 1
    assert [encoder.decode(ids[:n]) for n in range(1, len(ids))] == ["\ufffd"] * (len(ids) - 1)


@pytest.mark.parametrize("vocabulary", ENCODERS)
@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=st.text())
def test_decode_undoes_encode(vocabulary, text):
    assert ENCODERS[vocabulary].decode(ENCODERS[vocabulary].encode(text)) == text


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=st.text(" \t\r\n\u00a0'sdlvermtSD19\u00bda\u00e9\u0301\u6f22\U0001f600<|endoftext|>.-"))
def test_decode_undoes_encode_where_the_split_pattern_is_hard(text):
    assert GPT2.decode(GPT2.encode(text)) == text


def test_published_prompt_has_the_published_ids():
    text = ("Alan Turing theorized that computers would one day become very powerful, but even he "
            "could not imagine")
    ids = [36235, 39141, 18765, 1143, 326, 9061, 561, 530, 1110, 1716, 845, 3665, 11, 475, 772,
           339, 714, 407, 5967]
    assert GPT2.encode(text) == ids
    assert GPT2.decode(ids) == text


def test_published_continuation_has_the_published_text():
    ids = [703, 484, 561, 307, 1498, 284, 466, 523, 13, 198, 198, 1, 40, 892, 326, 262, 749, 1593,
           1517, 318]
    assert GPT2.decode(ids) == (' how they would be able to do so.\n\n"I think that the most '
                                "important thing is")


def test_encode_returns_a_list_of_python_integers():
    ids = GPT2.encode("Once upon a time<|endoftext|>")
    assert type(ids) is list and {*map(type, ids)} == {int}


def test_half_a_surrogate_pair_is_encoded_as_a_replacement_character():
    assert GPT2.encode("a\ud83d b") == GPT2.encode("a\ufffd b")


@pytest.mark.parametrize("unknown", [50257, 10**9, 2**32, 2**64, -1])
def test_ids_outside_the_vocabulary_decode_to_nothing(unknown):
    assert GPT2.decode([464, unknown, 3290]) == "The dog"


@pytest.mark.parametrize("ids", [np.array([464, 50300, 3290]), [np.int64(464), np.uint16(3290)],
                                 (464, 3290), iter([464, 3290])],
                         ids=["array", "list", "tuple", "iterator"])
def test_decode_takes_any_integers_in_any_iterable(ids):
    assert GPT2.decode(ids) == "The dog"


# Files that hold a vocabulary

def test_openai_file_names(tmp_path):
    shutil.copy(MODEL / "vocab.json", tmp_path / "encoder.json")
    shutil.copy(MODEL / "merges.txt", tmp_path / "vocab.bpe")
    assert_encodes(Encoder(tmp_path), "1M")


@pytest.mark.parametrize("change", [
    lambda merges: merges.rstrip(b"\n"),
    lambda merges: merges + b"\n\n",
    lambda merges: merges.replace(b"\n", b"\r\n"),
    lambda merges: merges.split(b"\n", 1)[1],
], ids=["no newline at the end", "empty lines at the end", "CRLF", "no version line"])
def test_merges_written_differently_are_the_same(tmp_path, change):
    shutil.copy(MODEL / "vocab.json", tmp_path)
    (tmp_path / "merges.txt").write_bytes(change((MODEL / "merges.txt").read_bytes()))
    encoder = Encoder(tmp_path)
    assert_encodes(encoder, "1M")
    assert encoder.encode("well") == [2046]  # the last merge of all


def test_tokenizer_json_alone_with_merges_as_strings(tmp_path):
    tokenizer = small()
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    assert_encodes(Encoder(save(tmp_path, tokenizer)), "small")


def test_tokenizer_json_has_its_merges_as_pairs():
    assert {*map(type, SMALL["model"]["merges"])} == {list}  # the other form is made from it above


def test_special_token_added_after_the_vocabulary_is_one_id():
    (pad,) = (token for token in SMALL["added_tokens"] if token["content"] == "<|pad|>")
    assert pad["id"] == len(SMALL["model"]["vocab"])
    assert ENCODERS["small"].encode("<|pad|>") == [pad["id"]]
    assert ENCODERS["small"].decode([pad["id"]]) == "<|pad|>"


def test_special_token_before_all_others(tmp_path):
    vocab, merges = SMALL["model"]["vocab"], map(" ".join, SMALL["model"]["merges"])
    assert vocab["<|endoftext|>"] == 0
    encoder = Encoder(write(tmp_path, vocab, merges))
    assert_encodes(encoder, "small", but=["special token that was added"])


def test_order_of_the_vocabulary_file_does_not_matter(tmp_path):
    vocab, merges = read(MODEL)
    assert_encodes(Encoder(write(tmp_path, dict(reversed(vocab.items())), merges)), "1M")


def test_tokens_are_all_ids_of_the_vocabulary():
    assert sorted(GPT2.tokens) == [*range(50257)]


# Never stale

def write_bytes_alone(folder: Path) -> Path:
    """A vocabulary without merges, under which "the" is three ids: under that of 1M it is one."""
    return write(folder, dict([*read(MODEL)[0].items()][:256]), [])


def test_vocabulary_that_changed_in_place_is_read_anew(tmp_path):
    assert len(Encoder(write(tmp_path, *read(MODEL))).encode("the")) == 1
    assert len(Encoder(write_bytes_alone(tmp_path)).encode("the")) == 3


def test_vocabulary_that_changed_in_place_is_read_anew_by_a_new_process(tmp_path):
    def encode():
        code = f"from encoder import Encoder; print(Encoder({str(tmp_path)!r}).encode('the'))"
        return json.loads(subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True,
                                         capture_output=True).stdout)

    write(tmp_path, *read(MODEL))
    assert len(encode()) == 1
    write_bytes_alone(tmp_path)
    assert len(encode()) == 3


def test_same_relative_path_in_another_folder_is_another_vocabulary(tmp_path, monkeypatch):
    write(tmp_path / "here" / "models" / "x", *read(MODEL))
    write_bytes_alone(tmp_path / "there" / "models" / "x")
    monkeypatch.chdir(tmp_path / "here")
    assert len(Encoder("models/x").encode("the")) == 1
    monkeypatch.chdir(tmp_path / "there")
    assert len(Encoder("models/x").encode("the")) == 3


# Vocabularies that can't be used

def edit_vocab(change):
    def damage(folder):
        vocab, merges = read(folder)
        write(folder, change(vocab) or vocab, merges)
    return damage


def edit_merges(change):
    def damage(folder):
        vocab, merges = read(folder)
        write(folder, vocab, change(merges))
    return damage


def put(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def replace(name, value):
    return edit_vocab(lambda vocab: vocab.update({name: value}))


def make_folder(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()
    return damage


DAMAGED = {
    "vocab.json is missing": lambda folder: (folder / "vocab.json").unlink(),
    "vocab.json is a folder": make_folder("vocab.json"),
    "vocab.json is empty": put("vocab.json", b""),
    "vocab.json is cut short": put("vocab.json", (MODEL / "vocab.json").read_bytes()[:9999]),
    "vocab.json is not UTF-8": put("vocab.json", b'{"\xff": 0}'),
    "vocab.json is nested deeply": put("vocab.json", b"[" * 100_000),
    "vocab.json is a list": put("vocab.json", b"[1, 2]"),
    "vocab.json is a string": put("vocab.json", b'"!"'),
    "vocab.json is a number": put("vocab.json", b"5"),
    "vocab.json is null": put("vocab.json", b"null"),
    "vocab.json has no tokens": put("vocab.json", b"{}"),
    "merges.txt is a folder": make_folder("merges.txt"),
    "merges.txt is not UTF-8": put("merges.txt", b"#version: 0.2\nh e\n\xff t\n"),
    "merges.txt is empty": put("merges.txt", b""),
    "merges.txt lacks its last half": edit_merges(lambda merges: merges[:900]),
    "merges are out of order": edit_merges(lambda merges: [merges[1], merges[0], *merges[2:]]),
    "a merge stands twice": edit_merges(lambda merges: [*merges, merges[-1]]),
    "a merge has one part": edit_merges(lambda merges: [*merges, "he"]),
    "a merge has three parts": edit_merges(lambda merges: [*merges, "h e r"]),
    "a merge's result is no token": edit_merges(lambda merges: [*merges, "well well"]),
    "ids are out of order": edit_vocab(
        lambda vocab: vocab | {"he": vocab["well"], "well": vocab["he"]}),
    "two tokens share an id": replace("<|endoftext|>", 2046),
    "two bytes share an id": replace("!", 1),
    "a byte is missing": edit_vocab(lambda vocab: vocab.pop("!") and vocab),
    "a token is empty": replace("", 2048),
    "a token is half a surrogate pair": replace("\ud800", 2048),
    "an id is a string": replace("<|endoftext|>", "2047"),
    "an id is a fraction": replace("<|endoftext|>", 2047.0),
    "an id is true": edit_vocab(lambda vocab: vocab.update({'"': True})),
    "an id is null": replace("!", None),
    "an id is a list": replace("he", [256]),
    "an id is negative": replace("<|endoftext|>", -1),
    "an id is too large": replace("<|endoftext|>", 2**32),
    "an id is not a number": replace("<|endoftext|>", float("nan")),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_vocabulary_is_a_value_error_that_names_the_folder(tmp_path, damage):
    write(tmp_path, *read(MODEL))
    damage(tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        Encoder(tmp_path)


def change_small(*path, to):
    def damage(tokenizer):
        for key in path[:-1]:
            tokenizer = tokenizer[key]
        tokenizer[path[-1]] = to
    return damage


DAMAGED_JSON = {
    "no model": lambda tokenizer: tokenizer.pop("model"),
    "no merges": lambda tokenizer: tokenizer["model"].pop("merges"),
    "merges are null": change_small("model", "merges", to=None),
    "merges are numbers": change_small("model", "merges", to=[1, 2]),
    "merges of three": change_small("model", "merges", to=[["a", "b", "c"]]),
    "merges lack their last half": change_small("model", "merges", to=SMALL["model"]["merges"][:9]),
    "vocab is a list": change_small("model", "vocab", to=[["a", -1.5]]),
    "added tokens are strings": change_small("added_tokens", to=["<|pad|>"]),
    "added token without a text": change_small("added_tokens", 1, "content", to=None),
    "added token is empty": change_small("added_tokens", 1, "content", to=""),
    "added token with an id that is taken": change_small("added_tokens", 1, "id", to=5),
    "added token with an id that is text": change_small("added_tokens", 1, "id", to="320"),
    "text is put into lower case first": change_small("normalizer", to={"type": "Lowercase"}),
    "text gets a space first": change_small("pre_tokenizer", "add_prefix_space", to=True),
    "text is split differently": change_small("pre_tokenizer", to={"type": "Whitespace"}),
}


@pytest.mark.parametrize("damage", DAMAGED_JSON.values(), ids=DAMAGED_JSON)
def test_damaged_tokenizer_json_is_a_value_error_that_names_the_folder(tmp_path, damage):
    tokenizer = small()
    damage(tokenizer)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        Encoder(save(tmp_path, tokenizer))


def test_folder_that_is_not_there_is_a_value_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "nothing"))):
        Encoder(tmp_path / "nothing")


def test_merges_that_are_missing_are_an_os_error_that_names_them(tmp_path):
    shutil.copy(MODEL / "vocab.json", tmp_path)
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "merges.txt"))):
        Encoder(tmp_path)
