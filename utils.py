"""What surrounds the model: the command line, checkpoint files, downloads."""
import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

PUBLISHED = {  # model_size: n_layer, n_head, repository, sha256 of the weights if it is known
    "124M": (12, 12, "gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e",
             "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "355M": (24, 16, "gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da", None),
    "774M": (36, 20, "gpt2-large/resolve/32b71b12589c2f8d625668d2335a01cac3249519", None),
    "1558M": (48, 25, "gpt2-xl/resolve/15ea56dee5df4983c59b2538573817e1667135e2",
              "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"),
}
VOCABULARY = {  # of all four: the files' sha256
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
TRIES, WAIT, TIMEOUT = 5, 2, (5, 60)  # of a download; seconds between; to connect and to read
WEIGHTS = {"model.safetensors": "config.json", "model.ckpt.data-00000-of-00001": "hparams.json"}
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # dtype in a safetensors file: in NumPy


class UserError(ValueError):
    """Something that a user can put right: an argument, a prompt, a file."""


def run(main):
    """Print main's text. UserError and OSError become one line; a bug keeps its traceback."""
    sys.stdout, sys.stderr = (file or open(os.devnull, "w") for file in (sys.stdout, sys.stderr))
    try:
        text = main(**_parse(main, sys.argv[1:]))
        sys.stdout.reconfigure(errors="replace")  # for a terminal that isn't UTF-8
        print(text, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a broken pipe would break again at exit
        line = f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}"
        sys.exit(141 if isinstance(error, BrokenPipeError) else line)


def _parse(main, args):
    """main's arguments by name. fire tells options from words, and leaves them text."""
    import fire

    if {"-h", "--help"} & {*args}:
        options = " ".join(f"[--{name} {value}]" for name, value in main.__kwdefaults__.items())
        sys.exit(print(f"{sys.argv[0]} PROMPT {options}\n\n{inspect.getdoc(main)}", flush=True))
    is_option = re.compile("--|-[a-zA-Z]").match
    for arg, following in zip(args, [*args[1:], "--"]):
        name = arg.split("=")[0].lstrip("-").replace("-", "_")
        if is_option(arg) and name not in {"prompt", *main.__kwdefaults__}:
            raise UserError(f'unknown option {arg}; if it is the prompt, write --prompt="{arg}"')
        if is_option(arg) and "=" not in arg and is_option(following):
            raise UserError(f"{arg} needs a value; one that begins with a hyphen is {arg}=VALUE")
    take = fire.decorators.SetParseFn(str)(lambda *words, **options: (words, options))
    words, options = fire.Fire(take, [*args, "--", "--separator=\0"], serialize=lambda _: None)
    words += (options["prompt"],) if "prompt" in options else ()
    if len(words) != 1:
        raise UserError(f'give one prompt, not {len(words)}: quote the prompt, "like this"')
    if re.search("[\ud800-\udfff]", words[0]):
        raise UserError("the prompt is not valid UTF-8")
    n_tokens = options.get("n_tokens_to_generate", "40")
    if not (n_tokens.isdecimal() and int(n_tokens)):
        raise UserError(f"n_tokens_to_generate is a whole number from 1 up, not {n_tokens!r}")
    return options | {"prompt": words[0], "n_tokens_to_generate": int(n_tokens)}


def check_inputs(inputs, n_tokens, n_vocab, n_ctx):
    """UserError unless inputs are ids of the vocabulary that fit the context with n_tokens more."""
    if not isinstance(n_tokens, int) or n_tokens < 1:
        raise UserError(f"n_tokens_to_generate is a whole number from 1 up, not {n_tokens!r}")
    if len(inputs) == 0:
        raise UserError("the prompt is empty, and the vocabulary has no <|endoftext|> for that")
    if unknown := [i for i in inputs if not 0 <= i < n_vocab]:
        raise UserError(f"id {unknown[0]} is not in the vocabulary, which is 0 to {n_vocab - 1}")
    if len(inputs) + n_tokens > n_ctx:
        raise UserError(f"{len(inputs)} prompt tokens and {n_tokens} to generate do not fit this "
                        f"model's context of {n_ctx}: shorten one of them")


def load_encoder_hparams_and_params(model_size, models_dir=None):
    """Tokenizer, hparams (n_vocab, n_ctx, n_embd, n_head, n_layer), float32 params of a model.

    From models_dir (models beside this file if None); a published model is downloaded if missing.
    """
    from encoder import Encoder

    folder = Path(os.path.expanduser(models_dir or Path(__file__).parent / "models")) / model_size
    names = [path.name + ("" if path.exists() else " (a broken link)")
             for path in sorted(folder.glob("[!.]*")) if path.suffix != ".part"]
    if model_size in PUBLISHED and {*names} <= {"config.json", *VOCABULARY}:
        _download_model(model_size, folder)
        names = ["model.safetensors"]
    weights = [folder / name for name in WEIGHTS if name in names]
    if not weights:
        raise UserError(f"{folder} holds {', '.join(names) or 'nothing'}; a model needs "
                        f"{' or '.join(WEIGHTS)}, whole ({', '.join(PUBLISHED)} are downloaded)")
    try:
        hparams = read_hparams(folder / WEIGHTS[weights[0].name])
        encoder = Encoder(folder, hparams["n_vocab"])
        params = read_params(weights[0], hparams)
    except FileNotFoundError as error:
        hint = f"; remove {folder} to have it downloaded anew" if model_size in PUBLISHED else ""
        raise OSError(f"{error.filename} is missing{hint}") from error
    keep_freed_memory()
    return encoder, hparams, params


def keep_freed_memory():
    """Make glibc keep what large arrays free: asking for it anew is 0.4 of a 512-token prefill.

    glibc keeps what is smaller than the largest block freed so far, up to 32 MiB. Others ignore it.
    """
    np.empty(2**25 - 2**16, np.uint8)


def by_columns(w, n_rows=16):
    """A float32 copy of w [n_in, n_out] that lies in memory column by column (Fortran order).

    A row times such a matrix is 1.1 to 1.4 times as fast. All rows at once would be 5 times slower.
    """
    columns = np.empty(w.shape, np.float32, order="F")
    for i in range(0, len(w), n_rows):
        columns[i : i + n_rows] = w[i : i + n_rows]
    return columns


@contextlib.contextmanager
def reading(path):
    """Whatever else goes wrong while a file is taken apart becomes a UserError that names it."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path}: damaged, or not what belongs there: {error!r}") from error


def read_json(path):
    """The dict that a JSON file holds."""
    with reading(path):
        return dict(json.loads(path.read_text("utf-8")))


def read_hparams(path):
    """n_vocab, n_ctx, n_embd, n_head, n_layer from a config.json or OpenAI's hparams.json."""
    config = read_json(path)
    hparams = {"n_vocab": config.get("vocab_size", config.get("n_vocab")),
               "n_ctx": config.get("n_positions", config.get("n_ctx")),
               **{name: config.get(name) for name in ("n_embd", "n_head", "n_layer")}}
    if (not all(type(n) is int and 0 < n < 10**6 for n in hparams.values())
            or hparams["n_embd"] % hparams["n_head"] or hparams["n_layer"] > 999):
        raise UserError(f"{path}: no model is made of {hparams}")
    runnable = {  # what the model files are right for, first the default
        "model_type": ["gpt2"], "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
        "layer_norm_epsilon": [1e-5], "n_inner": [None, 4 * hparams["n_embd"]],
        "scale_attn_weights": [True], "scale_attn_by_inverse_layer_idx": [False],
    }
    for key, right in runnable.items():
        if config.get(key, right[0]) not in right:
            raise UserError(f"{path}: {key} is {config[key]!r}, but only {right} can be run")
    return hparams


def nest(read, n_vocab, n_ctx, n_embd, n_layer, **_):
    """The dicts that gpt2() takes, with read(name on the hub, shape) for each array."""
    def layer(name, weight, *shape):
        return {weight: read(f"{name}.weight", shape), "b": read(f"{name}.bias", shape[-1:])}

    blocks = [{"attn": {"c_attn": layer(f"h.{i}.attn.c_attn", "w", n_embd, 3 * n_embd),
                        "c_proj": layer(f"h.{i}.attn.c_proj", "w", n_embd, n_embd)},
               "mlp": {"c_fc": layer(f"h.{i}.mlp.c_fc", "w", n_embd, 4 * n_embd),
                       "c_proj": layer(f"h.{i}.mlp.c_proj", "w", 4 * n_embd, n_embd)},
               "ln_1": layer(f"h.{i}.ln_1", "g", n_embd),
               "ln_2": layer(f"h.{i}.ln_2", "g", n_embd)} for i in range(n_layer)]
    return {"wte": read("wte.weight", (n_vocab, n_embd)), "blocks": blocks,
            "wpe": read("wpe.weight", (n_ctx, n_embd)), "ln_f": layer("ln_f", "g", n_embd)}


def read_params(path, hparams):
    """Nested dicts of float32 arrays, from a safetensors file or OpenAI's TensorFlow data file."""
    def read(name, shape):
        dtype, (first, last) = STORED[stored[name]["dtype"]], stored[name]["data_offsets"]
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if first < 0 or last - first != n_bytes or [*shape] != stored[name]["shape"]:
            raise UserError(f"{path}: {name} is {stored[name]}, where {shape} belongs")
        array = np.fromfile(path, dtype, math.prod(shape), offset=start + first).reshape(shape)
        if dtype == "<u2":  # BF16, the upper half of a float32
            array = np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
        if ".c_" in name and array.ndim == 2:
            return by_columns(array)
        return array.astype(np.float32, copy=False)

    with reading(path), open(path, "rb") as file:
        length, start, stored = file.read(8), 0, {}
        if length == b"version ":
            raise UserError(f"{path}: a Git LFS pointer, not the weights: run git lfs pull")
        if path.suffix == ".safetensors":  # header's length (8 bytes), header (JSON), tensors
            start = 8 + int.from_bytes(length, "little")
            header = json.loads(file.read(min(start, path.stat().st_size) - 8))
            stored = {name.removeprefix("transformer."): header[name] for name in header}
            stored.pop("__metadata__", None)
        else:  # float32 tensors alone, in the order of their names as strings: h1, h10, h2
            shapes, last = {}, 0
            nest(shapes.setdefault, **hparams)  # {name: shape}
            for name, shape in sorted(shapes.items()):
                first, last = last, last + 4 * math.prod(shape)
                stored[name] = {"dtype": "F32", "shape": [*shape], "data_offsets": [first, last]}
        size = start + max(tensor["data_offsets"][1] for tensor in stored.values())
        if size != path.stat().st_size or f"h.{hparams['n_layer']}.ln_1.weight" in stored:
            raise UserError(f"{path}: not {size} bytes long, or not of {hparams['n_layer']} layers")
        params = nest(read, **hparams)
        if "lm_head.weight" in stored and not np.array_equal(
                params["wte"], read("lm_head.weight", params["wte"].shape)):
            raise UserError(f"{path}: lm_head.weight differs from wte.weight, which cannot be run")
    return params


def _download_model(model_size, folder):
    """The files of a published model. The weights come last, and so vouch for the others."""
    n_layer, n_head, repository, sha256 = PUBLISHED[model_size]
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257,
              "n_positions": 1024, "n_embd": 64 * n_head, "n_head": n_head, "n_layer": n_layer,
              "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "bos_token_id": 50256, "eos_token_id": 50256}
    hub = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "config.json", "a") as file:
        with contextlib.suppress(ImportError, OSError):  # Windows, or a disk without locks
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
            except BlockingIOError:
                print(f"waiting for another process that downloads {folder}", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / "model.safetensors").exists():
            file.truncate(0)
            print(json.dumps(config, indent=2), file=file, flush=True)
        for name, known in {**VOCABULARY, "model.safetensors": sha256}.items():
            url = f"{hub}/openai-community/{repository}/{name}"
            try:
                if not (folder / name).exists():
                    _download(url, folder / name, known)
            except OSError as error:
                line = f"{folder / name} from {url}: {error} (--model_size 1M needs no download)"
                raise OSError(re.sub("//[^/]*@", "//***@", line)) from error


def _download(url, path, sha256):
    """Fetch what path.part lacks of url, and rename it to path if its sha256 is right."""
    import requests
    from tqdm import tqdm

    part, tries = path.with_name(path.name + ".part"), 0
    part.touch()
    while tries < TRIES:
        time.sleep(WAIT if tries else 0)
        tries, n_had = tries + 1, part.stat().st_size
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={n_had}-"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                status, sent = response.status_code, response.headers.get("Content-Range", "")
                resumes = status == 206 and sent.startswith(f"bytes {n_had}-")
                if not resumes and status not in (200, 416):
                    raise requests.RequestException(f"HTTP status {status} {sent}")
                # Where sha256 is None, the hub's redirect has to declare it.
                etags = [r.headers.get("X-Linked-Etag", "") for r in [*response.history, response]]
                declared = re.findall("[0-9a-f]{64}", " ".join(etags).lower())
                if not (sha256 or declared):
                    raise OSError("this hub declares no sha256 for it, so nothing can check it")
                begin = n_had if resumes else 0  # 200: all of it; 416: there is no more
                if status != 416:
                    response.raw.enforce_content_length = True  # as urllib3 2 does anyway
                    size = begin + int(response.headers.get("Content-Length", 0))
                    bar = tqdm(desc=path.name, total=size, initial=begin, unit="B",
                               unit_scale=True, disable=None)
                    with bar, open(part, "ab" if begin else "wb") as file:
                        for chunk in response.iter_content(1 << 16):
                            bar.update(file.write(chunk))
        except (requests.RequestException, ValueError) as error:  # ValueError: a malformed address
            problem = getattr(error.args[0] if error.args else None, "reason", error)
            tries = 0 if part.stat().st_size > n_had else tries  # progress: begin to count anew
            continue
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == (sha256 or declared[0]):
            os.replace(part, path)
            return
        part.unlink()
        raise OSError(f"its sha256 is {found}, not {sha256 or declared[0]}; removed, so try again")
    raise OSError(problem)
