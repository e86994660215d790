"""encoder.py: the ids of transformers for what people have, and a clear refusal of all else.

fixtures/make_tokenizers.py wrote the folders and encodings.json. Added tokens there are four and
eight spaces, and "in", which the vocabulary has; 4.33-slow-added has them in added_tokens.json.
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
from encoder import Encoder
from utils import UserError

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "encodings.json").read_text("utf-8"))
FOLDERS = {folder.name: folder for folder in sorted((FIXTURES / "tokenizers").iterdir())}
FOLDERS |= {"gpt2": FIXTURES / "gpt2-vocab", "1M": FIXTURES.parent.parent / "models" / "1M"}
SLOW, FAST = "4.57-slow-added", "4.57-fast-added"  # FAST has a tokenizer.json besides
GPT2, SMALL = Encoder(FOLDERS["gpt2"]), Encoder(FOLDERS[SLOW])
MERGED = SMALL.decode(range(256, 319))  # a text that needs each of the 63 merges
PIECE = st.sampled_from([*SMALL.added, " ", "\n", "'s", "\u0301"]) | st.characters(codec="utf-8")


def changed(parent, vocabulary, file, old, new):
    """A copy of a vocabulary's folder in which one file has new where it had old."""
    folder = Path(shutil.copytree(FOLDERS[vocabulary], parent / "copy"))
    data = (folder / file).read_bytes()
    assert old in data
    (folder / file).write_bytes(data.replace(old, new))
    return folder


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
    assert GPT2.decode(ids) == "The dog"


@pytest.mark.parametrize("old, new", [("\n", "\r\n"), ("is\n", "is"), ("#version: 0.2\n", "")])
def test_merges_may_have_crlf_or_lack_the_last_newline_or_the_version(tmp_path, old, new):
    encoder = Encoder(changed(tmp_path, SLOW, "merges.txt", old.encode(), new.encode()))
    assert encoder.encode(MERGED) == SMALL.encode(MERGED)


def test_ids_in_another_order_than_the_merges_are_refused(tmp_path):
    folder = changed(tmp_path, SLOW, "vocab.json", b": 258", b": 999")
    with pytest.raises(UserError, match=re.escape(str(folder))):
        Encoder(folder)


def test_token_that_the_vocabulary_has_and_the_config_names_is_one_id(tmp_path):
    folder = changed(tmp_path, "4.33-slow-added", "vocab.json", b"<|endoftext|>", b"<s>")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    assert Encoder(folder).encode("<s>") == [319]


def test_tokenizer_json_is_preferred(tmp_path):
    folder = changed(tmp_path, FAST, "vocab.json", b":258", b":999")
    assert Encoder(folder).encode(MERGED) == SMALL.encode(MERGED)


def test_added_tokens_that_the_model_has_no_ids_for_are_left_out():
    encoder = Encoder(FOLDERS[SLOW], 322)
    assert encoder.encode("<|im_start|>") == [321] and max(encoder.encode("<|im_end|>")) < 319


@pytest.mark.parametrize("file, key, old, new", [
    *[(file, key, ": false", ": true") for key in ("lstrip", "rstrip", "single_word")
      for file in ("tokenizer.json", "tokenizer_config.json")],
    ("tokenizer_config.json", "add_prefix_space", ": false", ": true"),
    ("tokenizer_config.json", "add_bos_token", ": false", ": true"),
    ("tokenizer.json", "add_prefix_space", ": false", ": true"),
    ("tokenizer.json", "normalizer", ": null", ': {"type": "Lowercase"}'),
    ("tokenizer.json", "pre_tokenizer", ': {\n    "type": "ByteLevel"', ': {"type": "Digits"'),
    ("tokenizer.json", "post_processor", ': {\n    "type"', ': {"type": "BertProcessing", "_"'),
    ("tokenizer.json", "use_regex", ": true", ": false"),
    ("tokenizer.json", "end_of_word_suffix", ': ""', ': "</w>"'),
    ("tokenizer.json", "ignore_merges", ": false", ": true"),
    ("tokenizer_config.json", "errors", ': "replace"', ': "strict"'),
    ("tokenizer_config.json", "tokenizer_class", ': "GPT2', ': "CLIP'),
    ("special_tokens_map.json", "rstrip", ": false", ": true"),
])
def test_what_is_not_done_is_refused_by_file_and_key(tmp_path, file, key, old, new):
    folder = changed(tmp_path, FAST, file, f'"{key}"{old}'.encode(), f'"{key}"{new}'.encode())
    with pytest.raises(UserError, match=f"{re.escape(str(folder / file))}.*{key}"):
        Encoder(folder)


@pytest.mark.parametrize("file, old, new", [
    pytest.param("merges.txt", b"is\n", b"is\nh e r\n", id="a merge of three"),
    pytest.param("merges.txt", "\u0120 is\n".encode(), b"", id="merges cut short"),
    pytest.param("vocab.json", b": 258", b": 259", id="an id twice"),
    pytest.param("vocab.json", b": 258", b': "258"', id="an id that is text"),
    pytest.param("vocab.json", b": 258", b": 258.0", id="an id that is no whole number"),
    pytest.param("added_tokens.json", b"PAD", b"\xff", id="not UTF-8"),
    pytest.param("tokenizer_config.json", b"}", b"", id="not JSON"),
])
def test_damaged_files_are_refused_by_name(tmp_path, file, old, new):
    folder = changed(tmp_path, SLOW, file, old, new)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        Encoder(folder)


def test_vocabulary_is_never_that_of_another_time_or_place(tmp_path, monkeypatch):
    expected = EXPECTED["encode"]["prose"]
    for place, vocabulary in ("here", "gpt2"), ("here", "1M"), ("there", "gpt2"):
        shutil.copytree(FOLDERS[vocabulary], tmp_path / place / "model", dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        assert Encoder("model").encode(expected["text"]) == expected[vocabulary]


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match="UTF-8"):
        GPT2.encode("half a pair: \ud83d")


def test_empty_prompt_is_refused_where_there_is_no_endoftext(tmp_path):
    path = write_model(tmp_path / "tiny") / "vocab.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|end|>"))
    with pytest.raises(UserError, match=re.escape("<|endoftext|>")):
        gpt2.main("", model_size="tiny", models_dir=tmp_path)


def test_empty_added_token_is_left_out(tmp_path):
    folder = changed(tmp_path, "4.33-slow-added", "added_tokens.json", b"{", b'{"": 330,')
    assert Encoder(folder).encode(MERGED) == Encoder(FOLDERS["4.33-slow-added"]).encode(MERGED)


def test_document_starts_with_endoftext_alone():
    assert SMALL.start == SMALL.encode("<|endoftext|>") and len(SMALL.start) == 1


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


NAMING = {
    "as the only name": {"special_tokens_map": {"pad_token": "<pad>"}},
    "as a dict": {"special_tokens_map": {"pad_token": {"content": "<pad>", "lstrip": False}}},
    "in the configuration": {"tokenizer_config": {"pad_token": "<pad>"}},
    "in an additional list": {"tokenizer_config": {"additional_special_tokens": ["<pad>"]}},
    "in an extra list": {"tokenizer_config": {"extra_special_tokens": ["<pad>"]}},
    "in an extra dict": {"tokenizer_config": {"extra_special_tokens": {"x_token": "<pad>"}}},
}


@pytest.mark.parametrize("files", NAMING.values(), ids=NAMING)
def test_special_token_that_a_file_names_is_one_id(tmp_path, files):
    assert Encoder(letters(tmp_path, "<pad>", **files)).encode("a<pad>b") == [64, 256, 65]


def test_token_that_no_file_names_is_cut_into_letters(tmp_path):
    assert len(Encoder(letters(tmp_path, "<pad>")).encode("<pad>")) == 5


@pytest.mark.parametrize("setting", ["lstrip", "rstrip", "single_word"])
def test_settings_of_a_named_token_count(tmp_path, setting):
    files = {"special_tokens_map": {"pad_token": {"content": "<pad>", setting: True}}}
    with pytest.raises(UserError, match=f"special_tokens_map.json: {setting}"):
        Encoder(letters(tmp_path, "<pad>", **files))


@pytest.mark.parametrize("normalized, expected", [(False, 256), (True, 257)])
def test_raw_tokens_come_before_longer_ones(tmp_path, normalized, expected):
    """As transformers 5.24 does: it looks for tokens that are not normalized first."""
    inner = {"content": "<s>", "special": True, "normalized": normalized}
    outer = {"content": "[<s>]", "special": False, "normalized": True}
    files = {"tokenizer_config": {"added_tokens_decoder": {"256": inner, "257": outer}}}
    assert expected in Encoder(letters(tmp_path, **files)).encode("x[<s>]y")


def test_named_token_without_an_id_has_the_next_one(tmp_path):
    files = {"special_tokens_map": {"pad_token": "<pad>"}}
    folder = letters(tmp_path, **files)
    assert Encoder(folder, 300).encode("<pad>") == [256]
    assert len(Encoder(folder, 256).encode("<pad>")) == 5  # the model has no row for it


def test_missing_byte_is_named_where_a_text_needs_it(tmp_path):
    encoder = Encoder(letters(tmp_path, lacking=["a"]))
    assert encoder.decode(encoder.encode("bcd")) == "bcd"
    with pytest.raises(UserError, match="byte 97"):
        encoder.encode("bad")


def test_byte_that_stands_in_a_merge_alone_is_missing_too(tmp_path):
    encoder = Encoder(letters(tmp_path, "ab", lacking=["a"], merges="a b\n"))
    with pytest.raises(UserError, match="byte 97"):
        encoder.encode("a")


@pytest.mark.parametrize("merges", ["", "h e\n"])
def test_merges_that_end_before_the_vocabulary_are_refused(tmp_path, merges):
    with pytest.raises(UserError, match="cut short"):
        Encoder(letters(tmp_path, "he", "hell", merges=merges))


@pytest.mark.parametrize("setting", ["do_lower_case", "add_bos_token", "split_special_tokens"])
def test_setting_that_nobody_thought_of_is_refused(tmp_path, setting):
    with pytest.raises(UserError, match=f"tokenizer_config.json: {setting}"):
        Encoder(letters(tmp_path, tokenizer_config={setting: True}))


def test_refusal_of_a_long_setting_is_short(tmp_path):
    with pytest.raises(UserError) as raised:
        Encoder(letters(tmp_path, tokenizer_config={"long" * 9999: "long" * 9999}))
    assert len(str(raised.value).replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize("step", [
    None, {"type": "ByteLevel"}, {"type": "Sequence", "processors": [{"type": "ByteLevel"}]},
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}])
def test_post_processor_that_adds_nothing_is_fine(tmp_path, step):
    saved = json.loads((FOLDERS["5.23"] / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved | {"post_processor": step}))
    assert Encoder(tmp_path).encode(MERGED) == Encoder(FOLDERS["5.23"]).encode(MERGED)


def test_merge_of_number_signs_is_no_comment():
    assert GPT2.encode("# Title\n\n## Part\n###") == [2, 11851, 198, 198, 2235, 2142, 198, 21017]


def test_letter_of_two_tokens_is_decoded_as_one():
    ids = GPT2.encode("\u6f22")
    assert len(ids) > 1 and GPT2.decode(ids) == "\u6f22"
    assert GPT2.decode(ids[:1]) == "\ufffd"


def test_added_token_that_is_not_ascii(tmp_path):
    encoder = Encoder(letters(tmp_path, added_tokens={"\u00e9t\u00e9": 256}))
    assert encoder.encode("l'\u00e9t\u00e9") == [75, 6, 256]
    assert encoder.decode([256]) == "\u00e9t\u00e9"


def test_250_000_ids(tmp_path):
    many = [f"<{i}>" for i in range(249_744)]
    files = {"special_tokens_map": {"pad_token": "<249743>"}}
    assert Encoder(letters(tmp_path, *many, **files), 250_000).encode("<249743>") == [249_999]
