"""encoder.py: the ids of transformers for what people have, and a clear refusal of all else.

fixtures/make_tokenizers.py wrote the folders and encodings.json. Added tokens there are four and
eight spaces, and "in", which the vocabulary has; 4.33-slow-added has them in added_tokens.json.
What is said here of transformers was tried with 5.24.
"""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_model
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from encoder import BYTE_OF, Encoder
from utils import UserError

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "encodings.json").read_text("utf-8"))
FOLDERS = {folder.name: folder for folder in sorted((FIXTURES / "tokenizers").iterdir())}
FOLDERS |= {"gpt2": FIXTURES / "gpt2-vocab", "1M": FIXTURES.parent.parent / "models" / "1M"}
SLOW, FAST, NEW = "4.57-slow-added", "4.57-fast-added", "5.23-added"
GPT2, SMALL = Encoder(FOLDERS["gpt2"]), Encoder(FOLDERS[SLOW])
MERGED = SMALL.decode(range(256, 319))  # a text that needs each of the 63 merges
PARTS = st.sampled_from(SMALL.encode("<|endoftext|>\u00e9\u6f22\U0001f451"))  # parts of letters
PIECE = st.sampled_from([*SMALL.added, " ", "\n", "'s", "\u0301"]) | st.characters(codec="utf-8")
TOKENIZER, CONFIG, NAMES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
OFF = {"lstrip": False, "rstrip": False, "single_word": False}


def changed(parent, vocabulary, file, old, new):
    """A copy of a vocabulary's folder in which one file has new where it had old."""
    folder = Path(shutil.copytree(FOLDERS[vocabulary], parent / "copy"))
    data = (folder / file).read_bytes()
    assert old in data
    (folder / file).write_bytes(data.replace(old, new))
    return folder


def with_settings(parent, vocabulary, file, place, new):
    """A copy of a vocabulary's folder in which a JSON file has the settings new in one place."""
    folder = Path(shutil.copytree(FOLDERS[vocabulary], parent / "copy"))
    content = json.loads((folder / file).read_text("utf-8"))
    settings = content
    for step in place:
        settings = settings[step]
    settings |= new
    (folder / file).write_text(json.dumps(content))
    return folder


def letters(parent, *tokens, lacking=(), merges="", **files):
    """A folder with a vocabulary of the 256 bytes and these tokens; files {name: what it holds}."""
    folder = parent / "letters"
    folder.mkdir()
    gpt2_ids = json.loads((FOLDERS["gpt2"] / "vocab.json").read_text("utf-8"))
    spelled = sorted(gpt2_ids, key=gpt2_ids.get)[:256]
    vocab = [token for token in [*spelled, *tokens] if token not in lacking]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text(merges, "utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def refusal(folder, n_vocab=10**6):
    """What is said where a folder is refused, without its path: that stands before the file."""
    with pytest.raises(UserError) as raised:
        Encoder(folder, n_vocab)
    assert str(folder) in str(raised.value)
    return str(raised.value).replace(str(folder), "")


# Ids and texts


@pytest.mark.parametrize("vocabulary", FOLDERS)
def test_encode_gives_the_list_of_ints_that_transformers_gives(vocabulary):
    encoder = Encoder(FOLDERS[vocabulary])
    for name, expected in EXPECTED["encode"].items():
        ids = encoder.encode(expected["text"])
        assert ids == expected[vocabulary] and {*map(type, ids)} <= {int}, name


@pytest.mark.parametrize("vocabulary", EXPECTED["decode"])
def test_bytes_that_are_not_utf8_decode_as_in_transformers(vocabulary):
    encoder = Encoder(FOLDERS[vocabulary])
    for sequence, (ids, text) in EXPECTED["decode"][vocabulary].items():
        assert encoder.decode(ids) == text, sequence


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(PIECE, max_size=20).map("".join))
def test_decode_undoes_encode(text):
    assert [encoder.decode(encoder.encode(text)) for encoder in (GPT2, SMALL)] == [text, text]


def test_published_prompt_and_continuation_have_the_published_ids():
    assert GPT2.encode(
        "Alan Turing theorized that computers would one day become very powerful, but even he could"
        ' not imagine how they would be able to do so.\n\n"I think that the most important thing is'
    ) == [36235, 39141, 18765, 1143, 326, 9061, 561, 530, 1110, 1716, 845, 3665, 11, 475, 772, 339,
          714, 407, 5967, 703, 484, 561, 307, 1498, 284, 466, 523, 13, 198, 198, 1, 40, 892, 326,
          262, 749, 1593, 1517, 318]


@pytest.mark.parametrize("ids", [[464, 50257, 2**64, -1, 3290], np.array([464, 3290])])
def test_decode_leaves_out_unknown_ids_and_takes_numpys(ids):
    assert GPT2.decode(ids) == "".join(GPT2.decode_stream(ids)) == "The dog"


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match="UTF-8"):
        GPT2.encode("half a pair: \ud83d")


def test_document_starts_with_endoftext_alone():
    assert SMALL.start == SMALL.encode("<|endoftext|>") == [319]


def test_empty_prompt_is_refused_where_there_is_no_endoftext(tmp_path):
    path = write_model(tmp_path / "tiny") / "vocab.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|end|>"))
    with pytest.raises(UserError, match=re.escape("<|endoftext|>")):
        "".join(gpt2.main("", model_size="tiny", models_dir=tmp_path))


# Text as it comes


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(st.lists(PARTS | st.integers(-1, 330), max_size=12))
def test_pieces_of_a_stream_are_the_text_up_to_endoftext(ids):
    end = ids.index(319) if 319 in ids else len(ids)
    pieces = list(SMALL.decode_stream(iter(ids)))
    assert "".join(pieces) == SMALL.decode(ids[:end])
    assert len(pieces) == end or len(pieces) == end + 1 and pieces[-1] == "\ufffd"


def test_letter_of_several_tokens_comes_with_its_last():
    ids = SMALL.encode("a\u6f22\U0001f451b")
    pieces = ["a", "", "", "\u6f22", "", "", "", "\U0001f451", "b"]
    assert list(SMALL.decode_stream(ids)) == pieces
    assert list(SMALL.decode_stream(ids[:3])) == ["a", "", "", "\ufffd"]


def test_stream_gives_each_piece_at_once_and_takes_no_id_after_endoftext():
    taken = []

    def ids():
        for i in GPT2.encode("The dog<|endoftext|>The cat"):
            taken.append(i)
            yield i

    pieces = GPT2.decode_stream(ids())
    assert (next(pieces), taken) == ("The", [464])
    assert list(pieces) == [" dog"] and taken == [464, 3290, 50256]


# Vocabularies


def test_each_byte_has_one_letter():
    assert sorted(BYTE_OF.values()) == list(range(256))
    assert [BYTE_OF[letter] for letter in "!~\u00ac\u00ff\u0100\u0120\u0143"] == [
        33, 126, 172, 255, 0, 32, 173]


@pytest.mark.parametrize("old, new", [("\n", "\r\n"), ("is\n", "is"), ("#version: 0.2\n", "\n")])
def test_merges_may_have_crlf_or_blank_lines_or_lack_the_version(tmp_path, old, new):
    encoder = Encoder(changed(tmp_path, SLOW, "merges.txt", old.encode(), new.encode()))
    assert encoder.encode(MERGED) == SMALL.encode(MERGED)


@pytest.mark.parametrize("vocabulary, file, place", [
    ("4.33-slow-added", "vocab.json", ()), ("5.23-first", TOKENIZER, ("model", "vocab"))])
def test_ids_need_not_follow_the_merges(tmp_path, vocabulary, file, place):
    vocab = json.loads((FOLDERS[vocabulary] / file).read_text("utf-8"))
    for step in place:
        vocab = vocab[step]
    other = {token: (i * 7 + 3) % len(vocab) for token, i in vocab.items()}  # neither divides
    folder = with_settings(tmp_path, vocabulary, file, place, other)

    new_id = {i: other[token] for token, i in vocab.items()}
    encoder = Encoder(folder)
    for name, expected in EXPECTED["encode"].items():
        ids = [new_id.get(i, i) for i in expected[vocabulary]]
        assert encoder.encode(expected["text"]) == ids, name
    assert encoder.decode(encoder.encode(MERGED)) == MERGED


def test_merge_of_number_signs_is_no_comment():
    assert GPT2.encode("# Title\n\n## Part\n###") == [2, 11851, 198, 198, 2235, 2142, 198, 21017]


def test_several_merges_may_make_one_token(tmp_path):
    merges = "a b\nb c\na bc\nab c\nc d\n"
    encoder = Encoder(letters(tmp_path, "ab", "bc", "abc", "cd", merges=merges))
    assert encoder.encode("abcd bcd") == [258, 67, 220, 257, 67]


def test_250_112_ids(tmp_path):
    many = [f"<{i}>" for i in range(249_856)]
    files = {"special_tokens_map": {"pad_token": "<249855>"}}
    assert Encoder(letters(tmp_path, *many, **files), 250_112).encode("<249855>") == [250_111]


def test_tokenizer_json_is_preferred(tmp_path):
    folder = changed(tmp_path, FAST, "vocab.json", b":258", b":999")
    assert Encoder(folder).encode(MERGED) == SMALL.encode(MERGED)


def test_token_that_spells_no_bytes_is_decoded_as_its_text(tmp_path):
    assert Encoder(letters(tmp_path, "<\u6f22>")).decode([256]) == "<\u6f22>"


@pytest.mark.parametrize("tokens, merges", [((), ""), (("ab",), "a b\n")])
def test_byte_that_has_no_id_is_missed_where_a_text_needs_it(tmp_path, tokens, merges):
    encoder = Encoder(letters(tmp_path, *tokens, lacking=["a"], merges=merges))
    assert encoder.decode(encoder.encode("bcd")) == "bcd"
    with pytest.raises(UserError, match="no token"):
        encoder.encode("bad")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_missing_file_is_an_oserror_that_names_it(tmp_path, file):
    folder = letters(tmp_path)
    (folder / file).unlink()
    with pytest.raises(OSError, match=re.escape(str(folder / file))):
        Encoder(folder)


@pytest.mark.parametrize("file, old, new", [
    pytest.param("merges.txt", b"is\n", b"is\nh e r\n", id="a merge of what has no id"),
    pytest.param("vocab.json", b": 258", b": 259", id="an id twice"),
    pytest.param("vocab.json", b": 258", b': "258"', id="an id that is text"),
    pytest.param("vocab.json", b": 258", b": -1", id="an id below 0"),
    pytest.param("added_tokens.json", b"PAD", b"\xff", id="not UTF-8"),
    pytest.param(CONFIG, b"}", b"", id="not JSON"),
    pytest.param(CONFIG, b'"content"', b'"contents"', id="a token without a text"),
])
def test_damaged_files_are_refused_by_name(tmp_path, file, old, new):
    refusal(changed(tmp_path, SLOW, file, old, new))


@pytest.mark.parametrize("merges", ["", "h e\n", "h e\nhe l\n"])
def test_merges_that_were_cut_short_are_refused(tmp_path, merges):
    assert "hell" in refusal(letters(tmp_path, "hell", "hel", "he", merges=merges)) or not merges


def test_words_that_are_added_tokens_need_no_merge(tmp_path):
    folder = letters(tmp_path, "PAD", special_tokens_map={"pad_token": "PAD"})
    assert Encoder(folder).encode("PAD") == [256]


def test_vocabulary_that_is_larger_than_the_model_is_refused():
    assert len(Encoder(FOLDERS["1M"], 2048).tokens) == 2048
    refusal(FOLDERS["1M"], 2047)


@pytest.mark.parametrize("files", [
    {"merges": "a" * 9999 + " b\n"}, {"tokenizer_config": {"add_prefix_space": "long" * 9999}}])
def test_refusal_of_something_long_is_short(tmp_path, files):
    assert len(refusal(letters(tmp_path, **files))) < 300


# Added tokens


NAMING = {
    "as the only name": {"special_tokens_map": {"pad_token": "<pad>"}},
    "as a dict": {"special_tokens_map": {"pad_token": {"content": "<pad>"} | OFF}},
    "by a key of one's own": {"special_tokens_map": {"my_own_token": "<pad>"}},
    "in the configuration": {"tokenizer_config": {"pad_token": "<pad>"}},
    "as a dict in the configuration": {
        "tokenizer_config": {"pad_token": {"__type": "AddedToken", "content": "<pad>"}}},
    "by one's own in the configuration": {"tokenizer_config": {"my_own_token": "<pad>"}},
    "in an additional list": {"tokenizer_config": {"additional_special_tokens": ["<pad>"]}},
    "in an extra list": {"tokenizer_config": {"extra_special_tokens": ["<pad>"]}},
    "in an extra dict": {"tokenizer_config": {"extra_special_tokens": {"x_token": "<pad>"}}},
    "as the model's": {"tokenizer_config": {"model_specific_special_tokens": {"x": "<pad>"}}},
}


@pytest.mark.parametrize("files", NAMING.values(), ids=NAMING)
def test_special_token_that_a_file_names_is_one_id(tmp_path, files):
    assert Encoder(letters(tmp_path, "<pad>", **files)).encode("a<pad>b") == [64, 256, 65]


def test_token_that_no_file_names_is_cut_into_letters(tmp_path):
    files = {"tokenizer_config": {"padding": "<pad>", "special_tokens": ["<pad>"]}}
    assert len(Encoder(letters(tmp_path, "<pad>", **files)).encode("<pad>")) == 5


def test_named_token_without_an_id_has_the_next_one(tmp_path):
    files = {"special_tokens_map": {"pad_token": "<pad>"}}
    folder = letters(tmp_path, **files)
    assert Encoder(folder, 300).encode("<pad>") == [256]
    assert len(Encoder(folder, 256).encode("<pad>")) == 5  # the model has no row for it


def test_empty_added_token_is_left_out(tmp_path):
    folder = changed(tmp_path, "4.33-slow-added", "added_tokens.json", b"{", b'{"": 330,')
    assert Encoder(folder).encode(MERGED) == Encoder(FOLDERS["4.33-slow-added"]).encode(MERGED)


@pytest.mark.parametrize("added", [
    {"<a>": 256, "<b>": 256}, {"<a>": 5}, {"<a>": -1}, {"<a>": "256"}, {"<a>": None}])
def test_added_tokens_of_anothers_id_or_of_none_are_refused(tmp_path, added):
    refusal(letters(tmp_path, added_tokens=added))


def test_added_token_that_is_not_ascii(tmp_path):
    encoder = Encoder(letters(tmp_path, added_tokens={"\u00e9t\u00e9": 256}))
    assert encoder.encode("l'\u00e9t\u00e9") == [75, 6, 256]
    assert encoder.decode([256]) == "\u00e9t\u00e9"


@pytest.mark.parametrize("normalized, expected", [(False, 256), (True, 257)])
@pytest.mark.parametrize("named", [{}, {"pad_token": "<s>"}])  # what is said first holds
def test_raw_tokens_come_before_longer_ones(tmp_path, normalized, expected, named):
    """As transformers does: it looks for tokens that are not normalized first."""
    inner = {"content": "<s>", "special": True, "normalized": normalized}
    outer = {"content": "[<s>]", "special": False, "normalized": True}
    config = {"added_tokens_decoder": {"257": outer, "256": inner}}
    assert expected in Encoder(letters(tmp_path, tokenizer_config=config | named)).encode("x[<s>]y")


@pytest.mark.parametrize("named, expected", [
    ("<s>", 256), ({"content": "<s>", "normalized": False}, 256),
    ({"content": "<s>", "normalized": True}, 257)])
def test_named_tokens_are_raw_unless_it_is_said_otherwise(tmp_path, named, expected):
    files = {"special_tokens_map": {"pad_token": named}, "added_tokens": {"[<s>]": 257}}
    assert expected in Encoder(letters(tmp_path, "<s>", **files)).encode("x[<s>]y")


# Settings


@pytest.mark.parametrize("name", [
    "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", None])
def test_classes_that_give_gpt2s_ids(tmp_path, name):
    folder = with_settings(tmp_path, FAST, CONFIG, (), {"tokenizer_class": name})
    assert Encoder(folder).encode(MERGED) == SMALL.encode(MERGED)


HARMLESS = {  # all are in folders that people have; none changes an id in transformers
    "device": "cuda", "device_map": "auto", "torch_dtype": "auto", "dtype": "float16",
    "use_auth_token": True, "trust_remote_code": True, "revision": "main", "return_tensors": "pt",
    "low_cpu_mem_usage": True, "padding_size": "right", "do_lower_case": True, "eos_token_id": 319,
    "special_tokens": ["e"], "response_template": "e", "model_name": "e", "language": "en",
    "errors": "strict", "clean_up_tokenization_spaces": True, "model_max_length": 4,
    "truncation": True, "padding": True, "max_length": 4, "vocab_file": "/elsewhere/vocab.json",
    "use_fast": False, "chat_template": "{{ e }}", "auto_map": {"AutoTokenizer": ["a.B", None]},
    "add_prefix_space": None, "split_special_tokens": False, "add_bos_token": False,
    "my_own_token": None, "your_token": 5, "additional_special_tokens": None,
    "extra_special_tokens": {}, "added_tokens_decoder": None,
}


@pytest.mark.parametrize("vocabulary, more", [
    ("4.33-slow-added", {}), (FAST, {"add_bos_token": True, "add_eos_token": True}), (NEW, {})])
def test_settings_that_change_no_id_are_accepted(tmp_path, vocabulary, more):
    folder = with_settings(tmp_path, vocabulary, CONFIG, (), HARMLESS | more)
    encoder = Encoder(folder)
    for name, expected in EXPECTED["encode"].items():
        assert encoder.encode(expected["text"]) == expected[vocabulary], name


MODEL, CUTTING, DECODER = ("model",), ("pre_tokenizer",), ("decoder",)


@pytest.mark.parametrize("vocabulary, file, place, key, value", [
    *[(SLOW, CONFIG, (), key, True) for key in (
        "add_prefix_space", "split_special_tokens", "add_bos_token", "add_eos_token")],
    *[(FAST, CONFIG, (), key, True) for key in ("add_prefix_space", "split_special_tokens")],
    *[(NEW, CONFIG, (), "tokenizer_class", name) for name in (
        "CLIPTokenizer", "RobertaTokenizerFast")],
    *[(FAST, file, place, key, True) for key in OFF for file, place in (
        (TOKENIZER, ("added_tokens", 0)), (CONFIG, ("added_tokens_decoder", "259")),
        (NAMES, ("pad_token",)))],
    (FAST, TOKENIZER, (), "normalizer", {"type": "Lowercase"}),
    (FAST, TOKENIZER, (), "normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
    (FAST, TOKENIZER, (), "pre_tokenizer", None),
    (FAST, TOKENIZER, CUTTING, "type", "Digits"),
    (FAST, TOKENIZER, CUTTING, "add_prefix_space", True),
    (FAST, TOKENIZER, CUTTING, "use_regex", False),
    (FAST, TOKENIZER, (), "decoder", None),
    (FAST, TOKENIZER, DECODER, "type", "WordPiece"),
    (FAST, TOKENIZER, MODEL, "type", "WordPiece"),
    (FAST, TOKENIZER, MODEL, "dropout", 0.1),
    (FAST, TOKENIZER, MODEL, "continuing_subword_prefix", "##"),
    (FAST, TOKENIZER, MODEL, "end_of_word_suffix", "</w>"),
    (FAST, TOKENIZER, MODEL, "ignore_merges", True),
])
def test_settings_that_change_ids_are_refused_by_file_and_key(
        tmp_path, vocabulary, file, place, key, value):
    said = refusal(with_settings(tmp_path, vocabulary, file, place, {key: value}))
    assert said.startswith(f"/{file}: ") and key in said


@pytest.mark.parametrize("place, key, value", [
    ((), "normalizer", {"type": "Sequence", "normalizers": []}),
    ((), "truncation", {"max_length": 4}),
    (CUTTING, "trim_offsets", False),
    (MODEL, "type", None), (MODEL, "dropout", 0.0), (MODEL, "continuing_subword_prefix", None),
    (MODEL, "end_of_word_suffix", None), (MODEL, "byte_fallback", True), (MODEL, "fuse_unk", True),
    (MODEL, "unk_token", "in"),
])
def test_settings_of_tokenizer_json_that_change_no_id_are_accepted(tmp_path, place, key, value):
    folder = with_settings(tmp_path, FAST, TOKENIZER, place, {key: value})
    assert Encoder(folder).encode(MERGED) == SMALL.encode(MERGED)


NO_STEP, TEXT, TOKEN = {"type": "ByteLevel"}, {"Sequence": {"id": "A"}}, {"SpecialToken": {}}
ADDS = {"type": "TemplateProcessing", "single": [TOKEN, TEXT]}


@pytest.mark.parametrize("step", [
    None, NO_STEP, {"type": "Sequence", "processors": [NO_STEP]},
    {"type": "TemplateProcessing", "single": [TEXT], "pair": [TEXT, TOKEN, TEXT]}])
def test_post_processor_that_adds_nothing_is_fine(tmp_path, step):
    folder = with_settings(tmp_path, NEW, TOKENIZER, (), {"post_processor": step})
    assert Encoder(folder).encode(MERGED) == SMALL.encode(MERGED)


@pytest.mark.parametrize("step", [
    ADDS, {"type": "Sequence", "processors": [NO_STEP, ADDS]}, {"type": "RobertaProcessing"}])
def test_post_processor_that_adds_tokens_is_refused(tmp_path, step):
    folder = with_settings(tmp_path, NEW, TOKENIZER, (), {"post_processor": step})
    assert refusal(folder).startswith(f"/{TOKENIZER}: post_processor")
