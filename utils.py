"""What surrounds the model: the command line, checkpoint files, downloads."""
import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

# model_size: where its files are on the hub, at a pinned revision
PUBLISHED = {
    "124M": "openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "355M": "openai-community/gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "774M": "openai-community/gpt2-large/resolve/32b71b12589c2f8d625668d2335a01cac3249519",
    "1558M": "openai-community/gpt2-xl/resolve/15ea56dee5df4983c59b2538573817e1667135e2",
}
SHA256 = {  # of the other files the hub declares its own
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "124M/model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "1558M/model.safetensors": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
}
TIMEOUT, RETRIES, BACKOFF = (10, 60), 4, 0.5  # seconds to connect and read; times; seconds, doubled
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
RUNNABLE = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}


def run(main):
    """Call main with the command line's arguments, by fire, and print the text that it returns.

    Errors are one line on standard error, with status 1 (Ctrl-C: 130, a reader that left: 141).
    """
    sys.stdout, sys.stderr = (f or open(os.devnull, "w") for f in (sys.stdout, sys.stderr))  # >&-
    try:
        text = _parse(main, sys.argv[1:])()
        sys.stdout.reconfigure(errors="replace")  # for a terminal that isn't UTF-8
        print(text, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a broken pipe would break again at exit
        line = f"{Path(sys.argv[0]).name}: {' '.join(str(error).split()) or 'out of memory'}"
        sys.exit(141 if isinstance(error, BrokenPipeError) else line)


def _parse(main, args):
    """main with its arguments bound. fire gets a recorder: it calls first and checks afterwards."""
    import fire

    calls = []

    @fire.decorators.SetParseFns(str, _whole_number, str, str)
    @functools.wraps(main)
    def record(*args, **kwargs):
        calls.append(functools.partial(main, *args, **kwargs))

    # For fire a flag without a value is "True", and a lone "-" separates commands: not so here.
    flags = ["--separator", "\0"]
    for arg, value in zip(args, [*args[1:], "--"]):
        if arg in ("-h", "--help"):
            args, flags = [], ["--help"]
        elif re.match("--[^=]+$|-[a-zA-Z]$", arg) and re.match("--|-[a-zA-Z]", value):
            raise ValueError(f"{arg} needs a value; one that begins with a hyphen is {arg}=VALUE")
    try:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            fire.Fire(record if args else main, [*args, "--", *flags])
    except fire.core.FireExit as exit:
        if exit.code:
            raise ValueError(f"{exit.trace.elements[-1].ErrorAsStr()} (see --help)") from exit
        sys.exit(print(printed.getvalue(), file=sys.stderr))
    return calls[0]


def _whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"n_tokens_to_generate is a whole number from 1 up, not {text!r}")
    return int(text)


def check_lengths(n_inputs: int, n_tokens_to_generate: int, n_ctx: int):
    """ValueError unless there is a prompt and it fits the context with all that is to follow."""
    if n_inputs < 1:
        raise ValueError("inputs is empty: give at least one id, such as that of <|endoftext|>")
    if not isinstance(n_tokens_to_generate, (int, np.integer)) or n_tokens_to_generate < 1:
        raise ValueError(f"n_tokens_to_generate is a whole number from 1 up, not "
                         f"{n_tokens_to_generate!r}")
    if n_inputs + n_tokens_to_generate > n_ctx:
        raise ValueError(f"{n_inputs} prompt tokens and {n_tokens_to_generate} to generate do not "
                         f"fit this model's context of {n_ctx}: shorten one of them")


def load_encoder_hparams_and_params(model_size: str, models_dir: str):
    """Tokenizer, hparams (n_vocab, n_ctx, n_embd, n_head, n_layer) and float32 weights of a model.

    models_dir/model_size is used as it is if it holds a checkpoint: model.safetensors, or OpenAI's
    TensorFlow files. Else the published model of that name is downloaded there.
    Raises ValueError (unknown model, damaged or unsupported file) or OSError (files, network).
    """
    from encoder import Encoder

    folder = Path(models_dir) / model_size
    if not _holds_checkpoint(folder):
        if model_size not in PUBLISHED:
            here = sorted(p.name for p in Path(models_dir).glob("*") if _holds_checkpoint(p))
            raise ValueError(f"no model {model_size!r}: there is {', '.join(here) or 'none'} in "
                             f"{models_dir}, and {', '.join(PUBLISHED)} can be downloaded")
        _download_model(model_size, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if not weights.exists():
        weights, config = folder / "model.ckpt.data-00000-of-00001", folder / "hparams.json"
    if not weights.exists():
        raise ValueError(f"{folder}: weights in a format that can't be read; save them as one "
                         "model.safetensors (not in shards)")
    hparams = read_hparams(config)
    encoder = Encoder(folder)
    if max(encoder.tokens) >= hparams["n_vocab"]:
        raise ValueError(f"{folder}: the tokenizer has ids up to {max(encoder.tokens)}, but "
                         f"{config.name} a vocabulary of {hparams['n_vocab']}")
    return encoder, hparams, read_params(weights, hparams)


def _holds_checkpoint(folder: Path) -> bool:
    """Of any format: a folder with weights that can't be read must not be topped up either."""
    weights = re.compile(r"model\.ckpt.*|.*\.(safetensors|bin|h5|index\.json)")
    return any(weights.fullmatch(path.name) for path in folder.glob("*"))


def _parse_json(path: Path, data: bytes) -> dict:
    def unique(pairs):
        if len(pairs) != len(dict(pairs)):
            raise ValueError("a key stands in it twice")
        return dict(pairs)

    try:
        return dict(json.loads(data, object_pairs_hook=unique).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not the JSON that belongs there: {error}") from error


def _size(path: Path) -> int:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file")
    return path.stat().st_size


def read_hparams(path: Path) -> dict[str, int]:
    """n_vocab, n_ctx, n_embd, n_head, n_layer from a config.json or OpenAI's hparams.json."""
    config = _parse_json(path, path.read_bytes() if _size(path) else b"")
    hparams = {"n_vocab": config.get("vocab_size", config.get("n_vocab")),
               "n_ctx": config.get("n_positions", config.get("n_ctx"))}
    hparams.update((name, config.get(name)) for name in ("n_embd", "n_head", "n_layer"))
    for name, value in hparams.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{path}: {name} is {value!r}, not a whole number from 1 up")
    if hparams["n_embd"] % hparams["n_head"]:
        raise ValueError(f"{path}: n_embd {config['n_embd']} is no multiple of n_head")
    for name, value in {**RUNNABLE, "n_inner": 4 * hparams["n_embd"]}.items():
        if config.get(name, value) != value and (name, config[name]) != ("n_inner", None):
            raise ValueError(f"{path}: {name} is {config[name]!r}, but only {value!r} can be run")
    return hparams


def _nest(read, n_vocab, n_ctx, n_embd, n_layer, **_) -> dict:
    """The dicts that gpt2() takes, with read(name, shape) for each array."""
    def linear(name, n_in, n_out):
        return {"w": read(f"{name}.weight", (n_in, n_out)), "b": read(f"{name}.bias", (n_out,))}

    def norm(name):
        return {"g": read(f"{name}.weight", (n_embd,)), "b": read(f"{name}.bias", (n_embd,))}

    blocks = [{"attn": {"c_attn": linear(f"h.{i}.attn.c_attn", n_embd, 3 * n_embd),
                        "c_proj": linear(f"h.{i}.attn.c_proj", n_embd, n_embd)},
               "mlp": {"c_fc": linear(f"h.{i}.mlp.c_fc", n_embd, 4 * n_embd),
                       "c_proj": linear(f"h.{i}.mlp.c_proj", 4 * n_embd, n_embd)},
               "ln_1": norm(f"h.{i}.ln_1"), "ln_2": norm(f"h.{i}.ln_2")} for i in range(n_layer)]
    return {"wte": read("wte.weight", (n_vocab, n_embd)),
            "wpe": read("wpe.weight", (n_ctx, n_embd)), "blocks": blocks, "ln_f": norm("ln_f")}


def read_params(path: Path, hparams: dict[str, int]) -> dict:
    """Nested dicts of float32 arrays from a safetensors file or OpenAI's TensorFlow data file.

    safetensors: the length of the header (8 bytes, little-endian), the header (JSON), the tensors.
    TensorFlow: the tensors alone, float32, in the order of their names as strings (h1, h10, h2).
    """
    size, v, n, e = _size(path), *(hparams[name] for name in ("n_vocab", "n_ctx", "n_embd"))
    if size < 2 * ((v + n) * e + hparams["n_layer"] * (12 * e + 13) * e + 2 * e):
        raise ValueError(f"{path}: {size} bytes, too few for a model of this shape: {hparams}")
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if start > min(size, 2**20):  # of the published models, 1558M has the longest: 0.1 MB
                raise ValueError(f"{path}: a header of {start - 8} bytes in a file of {size}")
            header = _parse_json(path, file.read(start - 8))
    else:
        start, end, shapes, header = 0, 0, {}, {}
        _nest(shapes.setdefault, **hparams)
        for name in sorted(shapes):
            first, end = end, end + 4 * math.prod(shapes[name])
            header[name] = {"dtype": "F32", "shape": [*shapes[name]], "data_offsets": [first, end]}
    header.pop("__metadata__", None)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in header.items()}

    def read(name, shape):
        dtype, (first, last) = STORED[tensors[name]["dtype"]], tensors[name]["data_offsets"]
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if tensors[name]["shape"] != [*shape] or last - first != n_bytes:
            raise ValueError(f"{name} is {tensors[name]}, but should have the shape {[*shape]}")
        stored = np.fromfile(path, dtype, math.prod(shape), offset=start + first).reshape(shape)
        if dtype != "<u2":
            return stored.astype(np.float32, copy=False)
        array = np.zeros((*shape, 2), "<u2")
        array[..., 1] = stored  # a BF16 is the upper half of a float32
        return array.view(np.float32).reshape(shape)

    try:
        end = 0
        for first, last in sorted(tensor["data_offsets"] for tensor in header.values()):
            if type(first) is not int or type(last) is not int or first != end or last < first:
                raise ValueError(f"tensors overlap or leave a gap at byte {end}")
            end = last
        if start + end != size:
            raise ValueError(f"{size} bytes, where {start + end} were expected")
        if len(tensors) != len(header) or f"h.{hparams['n_layer']}.ln_1.weight" in tensors:
            raise ValueError("tensors stand twice, or more layers than n_layer says")
        params = _nest(read, **hparams)
        head = read("lm_head.weight", (v, e)) if "lm_head.weight" in tensors else None
        if head is not None and not np.array_equal(head, params["wte"]):
            raise ValueError("lm_head.weight differs from wte.weight, but GPT-2 shares them")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged or not a GPT-2: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: lacks the tensor, or cannot read the dtype, {error}") from error
    return params


def _download_model(model_size: str, folder: Path):
    """The four files of a published model; the weights come last and so vouch for the others."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    folder.mkdir(parents=True, exist_ok=True)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    retry = Retry(RETRIES, connect=2, backoff_factor=BACKOFF, raise_on_status=False,
                  status_forcelist=(429, *range(500, 600)))
    with requests.Session() as session, _locked(folder):
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        for name in ("config.json", "vocab.json", "merges.txt", "model.safetensors"):
            url = f"{endpoint.rstrip('/')}/{PUBLISHED[model_size]}/{name}"
            sha256 = SHA256.get(name, SHA256.get(f"{model_size}/{name}"))
            try:
                if not (folder / name).exists():
                    _download(session, url, folder / name, sha256)
            except requests.RequestException as error:
                reason = getattr(error.args[0] if error.args else None, "reason", error)
                raise OSError(f"{url}: {reason} (--model_size 1M needs no network)") from error
            except OSError as error:
                raise OSError(f"{folder / name}: {error}") from error


@contextlib.contextmanager
def _locked(folder: Path):
    """Let one process at a time download into folder. The lock ends with it, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows, which has no such lock, but renames no file that is open
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OSError(f"{folder}: another process is downloading it; wait for that") from error
    finally:
        os.close(handle)


def _download(session, url: str, path: Path, sha256: str | None):
    """Fetch what path.part lacks of url, check its size and sha256, and rename it to path.

    Where sha256 is None, the redirect's X-Linked-Etag serves, if it is one (64 hex digits).
    """
    from requests.exceptions import ChunkedEncodingError, ConnectionError
    from tqdm import tqdm

    part = path.with_name(path.name + ".part")
    for attempt in range(1 + RETRIES):
        time.sleep(BACKOFF * 2**attempt if attempt else 0)
        n_had = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={n_had}-"} if n_had else {})
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            linked = next((hop.headers for hop in [*response.history, response]
                           if "X-Linked-Etag" in hop.headers), {})
            etag = re.fullmatch('"?([0-9a-f]{64})"?', linked.get("X-Linked-Etag", ""))
            expected = sha256 or (etag and etag[1])
            if n_had and not expected:
                part.unlink()  # nothing could tell whether the two halves belong together
                continue
            if response.status_code != 416:  # 416: there is no more to come, so on to the check
                response.raise_for_status()
                n_had = n_had if response.status_code == 206 else 0  # 200: the whole file again
                size = n_had + int(response.headers.get("Content-Length", 0))
                size = int(linked.get("X-Linked-Size", size))
                bar = tqdm(desc=path.name, total=size or None, initial=n_had, unit="B",
                           unit_scale=True, disable=None)
                try:
                    with open(part, "ab" if n_had else "wb") as file, bar:
                        for chunk in response.iter_content(1 << 16):
                            bar.update(file.write(chunk))
                except (ChunkedEncodingError, ConnectionError):
                    continue  # the next attempt goes on where this one broke off
                if part.stat().st_size < size:
                    continue
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == (expected or found):
            if not expected and path.suffix == ".json":
                _parse_json(part, part.read_bytes())  # not some portal's log-in page
            os.replace(part, path)
            return
        part.unlink()
        if not n_had:
            raise OSError(f"sha256 of {url} is {found}, not {expected}: removed; try again later")
    raise OSError(f"{url} broke off {1 + RETRIES} times; the same command goes on from there")
