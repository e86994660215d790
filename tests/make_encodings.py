"""Write what transformers' GPT-2 tokenizer says of hard text, for test_encoder.py.

    pip install transformers
    python tests/make_encodings.py

makes fixtures/tokenizer.json, a small vocabulary as transformers saves it, with one special token
first and another added after the vocabulary, and fixtures/encodings.json: for GPT-2's vocabulary,
that of the 1M model and the small one, the ids of each text, and the text of ids that are bytes.
"""
import json
import tempfile
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
TEXTS = {
    "empty": "",
    "prose": "Once upon a time there was a king's daughter, who lived by herself.",
    "emoji": "\N{GRINNING FACE}\N{PILE OF POO} ok \N{THUMBS UP SIGN}\U0001f3fd!",
    "emoji joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \u2764\ufe0f",
    "flags": "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5 \U0001f3f4\u200d\u2620\ufe0f",
    "Chinese": "\u6c49\u5b57\uff0c\u6f22\u5b57\u3002\U00020000",
    "Japanese": "\u3053\u3093\u306b\u3061\u306f\u3001\u30ab\u30bf\u30ab\u30ca\uff08\uff91\uff09",
    "Korean": "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "Thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e44\u0e17\u0e22\u0e53",
    "Arabic": "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645\u061f \u0663",
    "Hebrew, right to left": "\u200f\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u200e abc",
    "Hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "Cyrillic and Greek": "\u041f\u0440\u0438\u0432\u0435\u0442, \u0391\u03b8\u03ae\u03bd\u03b1",
    "accents, composed": "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u00dfa",
    "accents, combining": "nai\u0308ve cafe\u0301 A\u030angstro\u0308m Z\u0351\u036b\u0343\u036a",
    "runs of spaces": "  a   b    c     ",
    "one space": " ",
    "spaces alone": "       ",
    "tabs": "\ta\t\tb \t c\t",
    "newlines": "\na\n\nb\n \nc \n\n\n",
    "CRLF": "a\r\nb\r\n\r\n c\rd\r",
    "no-break spaces": "a\u00a0b\u00a0\u00a0c \u00a0d\u202fe\u2060f\ufeffg",
    "Unicode spaces": "a\u2003b\u2009 c\u3000d\u2028e\u2029f\u0085g\u1680h\u200bi\x0bj\x0ck",
    "separators that only Python calls space": "a\x1cb\x1d\x1e c\x1f d",
    "contractions": "I'm you're he's we'll they've I'd don't it's'",
    "contractions in capitals": "I'M YOU'RE HE'S WE'LL DON'T I'Ll I'Test a'Some e'Really",
    "contractions, typographic": "I\u2019m you\u2019re he\u2019s don\u2018t \u201cwe\u2019ll\u201d",
    "apostrophes": "'s 't ''ll '' 'tis rock 'n' roll 'dog 'verb 're",
    "digits": "0 12 345 6789 3.14 1,000,000 1e-9 0x7F a1b2 007",
    "digits not ASCII": "\u0661\u0662 \u096a\u096b \uff11\uff12 \U0001d7d8 \u2160\u216b \u4e09",
    "fractions and superscripts": "\u00bd x\u00b2\u00b3\u2074 \u2082 \u2460 5\u00bd 1\u20442",
    "control characters": "".join(map(chr, [*range(32), 127, *range(128, 160)])),
    "NUL and DEL": "a\0b\0\0 \0c\x7f \x7f\x7fd",
    "soft hyphen": "co\u00adoperate\u00ad \u00ad",
    "last code points": "\ufffd\uffff\U0010ffff\ue000",
    "long word": "Donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 4,
    "one letter, many times": "a" * 100 + "A" * 50,
    "punctuation": "!!! ... ?!? --- ___ ### $%&/()= [](){}<> \\|/ ~^` @;:",
    "URL": "https://example.org/a_b-c/%20?q=1&r=%C3%A9#frag user@example.org",
    "code": "def f(x):\n    return {'a': x[0], \"b\": x ** 2}  # no\n\n\tif (a && !b) { c++; }\r\n",
    "mixed": "R2D2\u00e9t\u00e913\u6f22a\u0e44\u0e17\u0e221\U0001f600x'sY\u20ac5 \u2192\t\u2028!",
    "special token": "<|endoftext|>",
    "special token first": "<|endoftext|>Once upon",
    "special token last": "the end.<|endoftext|>",
    "special token between": "the end <|endoftext|> Once upon\n<|endoftext|>\n",
    "special token twice": "<|endoftext|><|endoftext|>",
    "almost a special token": "<|endoftext| <endoftext> <|endoftext |> |endoftext|> <|EndOfText|>",
    "special token in a special token": "<|endof<|endoftext|>text|>",
    "special token that was added": "a<|pad|> <|pad|>b <|pad|",
}
# Sequences that are not UTF-8, and some that are when put together
BYTES = [*(bytes([b]) for b in range(256)), b"\xe2\x82", b"\xe2\x82\xac", b"a\xe2\x82b",
         b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80", b"\xf0\x9f\xe2\x82\xac", b"\x80\x80\xc3\xa9",
         b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf5\x80",
         b"\xf4\x90\x80\x80", b"\xff\xfe", b"\xe2\x82\n\xac", b"\xc3 \xa9"]


def train_small():
    """Train on TEXTS, with a special token before all else and one after, and save as one file."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXTS.values(), vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        trained.save_model(folder)
        tokenizer = GPT2Tokenizer(vocab=f"{folder}/vocab.json", merges=f"{folder}/merges.txt")
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        tokenizer.save_pretrained(folder)
        (FIXTURES / "tokenizer.json").write_bytes(Path(folder, "tokenizer.json").read_bytes())
    return tokenizer


def load(folder: Path):
    return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def pretty(value, indent="\n") -> str:
    """JSON with a line for each key, and lists on one line."""
    if not isinstance(value, dict):
        return json.dumps(value)
    items = (f"{indent} {json.dumps(k)}: {pretty(v, indent + ' ')}" for k, v in value.items())
    return "{" + ",".join(items) + indent + "}"


def main():
    FIXTURES.mkdir(exist_ok=True)
    tokenizers = {"gpt2": load(HERE / "gpt2-vocab"), "1M": load(HERE.parent / "models" / "1M"),
                  "small": train_small()}
    encode = {name: {"text": text} for name, text in TEXTS.items()}
    decode = {}
    for vocabulary, tokenizer in tokenizers.items():
        for name, text in TEXTS.items():
            encode[name][vocabulary] = tokenizer(text)["input_ids"]
        vocab, spelling = tokenizer.get_vocab(), bytes_to_unicode()
        decode[vocabulary] = {}
        for sequence in BYTES:
            ids = [vocab[spelling[b]] for b in sequence]
            # Its clean-up takes away spaces before punctuation, which is not what the ids say.
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            decode[vocabulary][sequence.hex(" ")] = [ids, text]
    expected = pretty({"encode": encode, "decode": decode})
    (FIXTURES / "encodings.json").write_text(expected + "\n", "utf-8")


if __name__ == "__main__":
    main()
