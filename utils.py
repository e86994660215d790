"""What surrounds the model: the command line, checkpoint files, downloads."""
import contextlib
import ctypes
import hashlib
import inspect
import json
import math
import numbers
import os
import sys
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import fire
import numpy as np
from tqdm import tqdm

from encoder import GPT2_CLASSES, Encoder, UserError, brief, read_json, reading

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

# The published models: repository on the Hugging Face hub, revision, size of the weights.
PUBLISHED = {
    "124M": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", "548 MB"),
    "355M": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da", "1.5 GB"),
    "774M": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519", "3.2 GB"),
    "1558M": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2", "6.4 GB"),
}
SHA256 = {
    "124M/config.json": "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
    "124M/model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "355M/config.json": "ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22",
    "355M/model.safetensors": "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    "774M/config.json": "7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170",
    "774M/model.safetensors": "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    "1558M/config.json": "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a",
    "1558M/model.safetensors": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",  # of all four
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
HUB = "https://huggingface.co"
TIMEOUT = 3, 10  # seconds to connect, and to wait for the next bytes
PAUSE = 1  # seconds: a failed request is made again at once, then after 2 pauses, then after 4

SAFETENSORS = "model.safetensors"
PIECES = "model-?????-of-?????.safetensors"  # as large models are saved
TF_DATA = "model.ckpt.data-00000-of-00001"
NEEDED = [["config.json"], ["vocab.json", "merges.txt"], [SAFETENSORS]]  # each in one folder
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # types in a safetensors file, in NumPy
BAR_AFTER = 1  # seconds of loading


# ---------------------------------------------------------------- the command line


def run(main):
    """Run main with the command line's words, and print the pieces of text that it returns."""
    if sys.version_info < (3, 11):
        sys.exit("Python 3.11 or newer is needed")

    with plain_endings():
        arguments = parse(main, sys.argv[1:])
        pieces = main(**arguments)
        print_pieces(pieces, arguments["n_tokens_to_generate"])


@contextlib.contextmanager
def plain_endings():
    """End with a one-line message where the user can fix the cause. A bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it
    except BrokenPipeError:  # | head, for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain at exit
        sys.exit(141)  # 128 + SIGPIPE
    except MemoryError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: not enough memory: {error}")
    except (UserError, OSError) as error:
        one_line = " ".join(str(error).split())
        sys.exit(f"{Path(sys.argv[0]).name}: {one_line}")


def print_pieces(pieces, n_tokens):
    """Print pieces of text as they come, one for each token, of which there are n_tokens at most.

    On a terminal, a line on standard error tells the speed at the end. Where standard output is a
    file, standard error shows a bar, if that is a terminal. A pipe may end on that terminal, too.
    """
    sys.stdout.reconfigure(errors="replace")  # for a terminal that isn't UTF-8
    on_terminal = sys.stdout.isatty()
    to_file = os.path.isfile(sys.stdout.fileno())
    no_bar = None if to_file else True  # None: only where standard error is no terminal
    pieces = tqdm(pieces, "generating", n_tokens, unit=" tokens", disable=no_bar)

    times = [time.perf_counter()]
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            times.append(time.perf_counter())
    except KeyboardInterrupt:
        print(flush=True)
        raise
    print(flush=True)

    if on_terminal and len(times) > 1:
        print(speed(times), file=sys.stderr)


def speed(times):
    """A line on how fast tokens came. times: of the start, and of each token, in seconds."""
    line = f"first token {1000 * (times[1] - times[0]):.1f} ms"
    n = len(times) - 2
    if n > 0:
        seconds = times[-1] - times[1]
        digits = 0 if n / seconds > 10 else 2
        line += f", then {n} in {seconds:.2f} s: {n / seconds:,.{digits}f} tokens a second"
    return line


def parse(main, args):
    """main's arguments by name: text, but for those whose default is a number."""
    before = args[: args.index("--")] if "--" in args else args  # what follows -- is the prompt
    if "-h" in before or "--help" in before:
        print(usage(main), flush=True)
        sys.exit()

    words, options = words_and_options(args)
    signature = inspect.signature(main)
    try:
        bound = signature.bind(*words, **options)
    except TypeError as error:
        names = ", ".join(f"--{name}" for name in signature.parameters if name != "prompt")
        raise UserError(f"{error}; the options are {names} and --help; give one prompt, in quotes, "
                        '"like this", after -- if it begins with a hyphen, or only - to read '
                        "standard input") from error

    for name, text in bound.arguments.items():
        default = signature.parameters[name].default
        if type(default) is int:  # 0 is allowed only where it is the default
            bound.arguments[name] = whole_number(name, text, least=min(default, 1))
    if bound.arguments["prompt"] == "-":
        bound.arguments["prompt"] = read_standard_input()
    bound.apply_defaults()
    return bound.arguments


def usage(main):
    """The page that --help prints."""
    program = sys.argv[0]
    options = "".join(f"\n    [--{name} {value}]" for name, value in main.__kwdefaults__.items())
    return (f"{program} PROMPT{options}\n\n{inspect.getdoc(main)}\n\n"
            f'Example:\n    python {program} "Once upon a time" --model_size 1M')


def words_and_options(args):
    """The words and {option: value} of a command line, all as text.

    What follows -- is the prompt, even if it looks like an option. fire runs a function before it
    looks at unknown options, so collect stands in main's place.
    """
    if "--" in args:
        i = args.index("--")
        args = [*args[:i], "--prompt=" + " ".join(args[i + 1 :])]

    @fire.decorators.SetParseFn(str)
    def collect(*words, **options):
        return words, options

    def print_nothing(_):
        return None

    no_separator = "--separator=\0"  # which is "-" otherwise, and that is a prompt here
    return fire.Fire(collect, [*args, "--", no_separator], serialize=print_nothing)


def whole_number(name, text, least):
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name} is a whole number from {least} up, not {brief(text)}")
    return int(text)


def read_standard_input():
    """All of standard input, without the newline that echo adds."""
    text = sys.stdin.buffer.read().decode("utf-8-sig", "surrogateescape")
    return text.removesuffix("\n").removesuffix("\r")


def check_inputs(inputs, n_tokens, n_vocab, n_ctx):
    """UserError unless inputs are ids of the vocabulary that fit the context with n_tokens more."""
    if not isinstance(n_tokens, numbers.Integral) or n_tokens < 1:
        raise UserError(f"n_tokens_to_generate is a whole number from 1 up, not {brief(n_tokens)}")
    if len(inputs) == 0:
        raise UserError("the prompt is empty, and the vocabulary has no <|endoftext|> for that")
    for i in inputs:
        if not 0 <= i < n_vocab:
            raise UserError(f"id {i} is not in the vocabulary, which is 0 to {n_vocab - 1}")
    if len(inputs) + n_tokens > n_ctx:
        raise UserError(f"{len(inputs)} prompt tokens and {n_tokens} to generate do not fit this "
                        f"model's context of {n_ctx}: shorten one of them")


# ---------------------------------------------------------------- a model's files


def load_encoder_hparams_and_params(model_size, models_dir=None):
    """Tokenizer, hparams (see read_hparams), float32 params of a model.

    model_size is a folder in models_dir (if None, models beside this file). What a published model
    lacks there is taken from Hugging Face's cache, or else downloaded. UserError or OSError.
    """
    models_dir = Path(os.path.expanduser(models_dir or Path(__file__).parent / "models"))
    config, vocabulary, weights = find_files(model_size, models_dir)
    hparams = read_hparams(config)
    encoder = Encoder(vocabulary, hparams["n_vocab"])
    params = read_params(weights, hparams)
    keep_freed_memory()
    return encoder, hparams, params


def find_files(model_size, models_dir):
    """Where a model's configuration, the folder of its vocabulary, and its weights are."""
    folder = models_dir / model_size
    if not (folder / SAFETENSORS).exists():
        if (folder / TF_DATA).exists():
            return folder / "hparams.json", folder, folder / TF_DATA
        found = list(folder.glob(PIECES))
        if found:
            return folder / "config.json", folder, found[0]

    if model_size in PUBLISHED:
        config, vocabulary, weights = find_published(model_size, folder)
        return config / "config.json", vocabulary, weights / SAFETENSORS
    if (folder / SAFETENSORS).exists():
        return folder / "config.json", folder, folder / SAFETENSORS
    raise UserError(why_no_model(model_size, models_dir))


def why_no_model(model_size, models_dir):
    """Why no model was found, in one line."""
    folder = models_dir / model_size
    if folder.is_dir():
        return (f"{folder} has neither {SAFETENSORS}, which transformers' save_pretrained writes, "
                f"nor OpenAI's {TF_DATA}; it has {names_in(folder)}")
    if models_dir.is_dir():
        return (f"no folder {model_size} in {models_dir}, which has {names_in(models_dir)}; "
                f"{', '.join(PUBLISHED)} are downloaded when they are asked for")
    return f"there is no folder {models_dir}"


def names_in(folder):
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    return f"{names or 'nothing':.200}"


def keep_freed_memory():
    """Make glibc keep freed memory for the next step, instead of giving it back to the system.

    Without this, a 960-token prefill waits for 32,000 new pages.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # there is none on macOS, Windows and musl
        return
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: up to 32 MiB, its maximum, memory is kept when freed
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: up to 1 GiB in all


# ---- configuration


def read_hparams(path):
    """n_vocab, n_ctx, n_embd, n_head, n_layer, n_inner from a config.json or OpenAI's hparams.json.

    n_inner is the width inside the feed-forward network.
    """
    config = read_json(path)
    check_architecture(path, config)
    hparams = {
        "n_vocab": config.get("vocab_size", config.get("n_vocab")),
        "n_ctx": config.get("n_positions", config.get("n_ctx")),
        "n_embd": config.get("n_embd"),
        "n_head": config.get("n_head"),
        "n_layer": config.get("n_layer"),
    }
    for name, n in hparams.items():
        if type(n) is not int or not 0 < n < 1_000_000:
            raise UserError(f"{path}: {name} is {brief(n)}, not a number from 1 to 999,999")
    if hparams["n_embd"] % hparams["n_head"]:
        raise UserError(f"{path}: n_head {hparams['n_head']} does not divide its n_embd")
    hparams["n_inner"] = config.get("n_inner") or 4 * hparams["n_embd"]
    return hparams


def check_architecture(path, config):
    """Refuse what gpt2.py would run wrongly. The first of each key's values is the default."""
    right = {
        "model_type": ["gpt2"],
        "activation_function": [  # five names of one function
            "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate",
        ],
        "layer_norm_epsilon": [1e-5],
        "scale_attn_weights": [True],
        "scale_attn_by_inverse_layer_idx": [False],
        "add_cross_attention": [False],
        "tokenizer_class": [None, *GPT2_CLASSES],
    }
    for key, values in right.items():
        value = config.get(key, values[0])
        if value not in values:
            raise UserError(f"{path}: {key} is {brief(value)}, but only {values} can be run")


# ---- weights


def nest(read, n_vocab, n_ctx, n_embd, n_layer, n_inner, **_):
    """The nested dicts that gpt2() takes, by a call of read(name on the hub, shape, order) each.

    One read loads the array. Another only notes its shape, for OpenAI's file, which has no index.
    """
    def linear(name, n_in, n_out):
        w = read(f"{name}.weight", (n_in, n_out), order="F")
        return {"w": w, "b": read(f"{name}.bias", (n_out,))}

    def norm(name):
        return {"g": read(f"{name}.weight", (n_embd,)), "b": read(f"{name}.bias", (n_embd,))}

    def block(name):
        return {
            "ln_1": norm(f"{name}.ln_1"),
            "attn": {
                "c_attn": linear(f"{name}.attn.c_attn", n_embd, 3 * n_embd),
                "c_proj": linear(f"{name}.attn.c_proj", n_embd, n_embd),
            },
            "ln_2": norm(f"{name}.ln_2"),
            "mlp": {
                "c_fc": linear(f"{name}.mlp.c_fc", n_embd, n_inner),
                "c_proj": linear(f"{name}.mlp.c_proj", n_inner, n_embd),
            },
        }

    layers = tqdm(range(n_layer), "loading", delay=BAR_AFTER, leave=False, disable=None)
    return {
        "wte": read("wte.weight", (n_vocab, n_embd)),
        "wpe": read("wpe.weight", (n_ctx, n_embd)),
        "blocks": [block(f"h.{i}") for i in layers],
        "ln_f": norm("ln_f"),
    }


def read_params(path, hparams):
    """Nested dicts of float32 arrays, from safetensors files or OpenAI's TensorFlow data file.

    Of weights in pieces, path is any piece. Each matrix w lies in memory column by column (see
    by_columns). UserError names the file.
    """
    if path.name == TF_DATA:
        layout = tensorflow_layout(path, hparams)
    else:
        layout = {}
        for file in pieces(path):
            layout |= safetensors_layout(file)

    if f"h.{hparams['n_layer']}.ln_1.weight" in layout:
        raise UserError(f"{path}: more layers than the n_layer {hparams['n_layer']} configured")
    read = partial(read_tensor, path, layout)
    params = nest(read, **hparams)

    wte = params["wte"]
    if "lm_head.weight" in layout and not np.array_equal(wte, read("lm_head.weight", wte.shape)):
        raise UserError(f"{path}: lm_head.weight differs from wte.weight: can't be run")
    return params


def pieces(path):
    """The file path, or all files that it is one of: model-00001-of-00003.safetensors, ..."""
    if not path.match(PIECES):
        return [path]
    n = path.stem.split("-")[-1]
    return [path.with_name(f"model-{i:05}-of-{n}.safetensors") for i in range(1, int(n) + 1)]


def safetensors_layout(path):
    """{name: (path, dtype, shape, offset)} of the tensors in a safetensors file.

    It is the header's length (8 bytes), the header (JSON), and the tensors' bytes.
    """
    with reading(path), open(path, "rb") as file:
        size = os.path.getsize(path)
        first_bytes = file.read(8)
        if first_bytes == b"version ":
            raise UserError(f"{path}: a Git LFS pointer, not the weights: run git lfs pull")
        begin = 8 + int.from_bytes(first_bytes, "little")  # of the tensors
        if begin > size:
            raise UserError(f"{path}: not a safetensors file, or cut short")
        header = json.loads(file.read(begin - 8))

        header.pop("__metadata__", None)
        layout, end = {}, begin
        for name, tensor in header.items():
            first, last = tensor["data_offsets"]
            name = name.removeprefix("transformer.")
            layout[name] = path, tensor["dtype"], tuple(tensor["shape"]), begin + first
            end = max(end, begin + last)
        check_size(path, size, end)
    return layout


def tensorflow_layout(path, hparams):
    """The same of OpenAI's file: float32 tensors alone, in the order of OpenAI's names.

    Those names sort as strings (h1, h10, h2), just as the hub's names do.
    """
    shapes = {}

    def note(name, shape, order="C"):
        shapes[name] = shape

    nest(note, **hparams)
    layout, end = {}, 0
    for name, shape in sorted(shapes.items()):
        layout[name] = path, "F32", shape, end
        end += 4 * math.prod(shape)
    check_size(path, os.path.getsize(path), end)
    return layout


def check_size(path, size, expected):
    if size != expected:
        raise UserError(f"{path}: {size} bytes long, where {expected} belong: is it cut short?")


def read_tensor(path, layout, name, shape, order="C"):
    """A tensor as float32, row by row (order C) or column by column (order F)."""
    if name not in layout:
        raise UserError(f"{path}: {why_missing(layout, name)}")
    path, dtype, stored_shape, offset = layout[name]
    with reading(path):
        if dtype not in STORED or stored_shape != shape:
            raise UserError(f"{path}: {name} is {brief(dtype)} of {brief(stored_shape)}, where "
                            f"{', '.join(STORED)} of {shape} can be read")
        stored = np.fromfile(path, STORED[dtype], math.prod(shape), offset=offset).reshape(shape)
    return by_columns(stored) if order == "F" else as_float32(stored)


def why_missing(layout, name):
    """What the names in a file tell about one that isn't there."""
    for stored in layout:
        if stored.endswith(f".{name}"):
            return f"{name} is called {brief(stored)}: take that prefix off all names"
    return f"{name} is missing"


def as_float32(stored):
    """Numbers as float32. uint16 holds BF16, which is the upper half of a float32."""
    if stored.dtype == np.uint16:
        return np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
    return stored.astype(np.float32, copy=False)


def by_columns(stored, n_rows=16):
    """A float32 copy of a matrix that lies in memory column by column (Fortran's order).

    One row times such a matrix is 1.1 to 1.4 times as fast, since each sum then reads one column
    from end to end. Copied a few rows at a time: all at once takes five times as long.
    """
    columns = np.empty(stored.shape, np.float32, order="F")
    for i in range(0, len(stored), n_rows):
        columns[i : i + n_rows] = as_float32(stored[i : i + n_rows])
    return columns


# ---------------------------------------------------------------- downloads


def hub_cache(model_size):
    """The folders in which Hugging Face's own programs keep a published model."""
    env = os.environ
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or Path(home, "hub")
    cache = Path(os.path.expanduser(cache))

    repository, revision, _ = PUBLISHED[model_size]
    owner, name = repository.split("/")
    folders = [f"models--{owner}--{name}", f"models--{name}"]  # by the new name and the old
    return [cache / folder / "snapshots" / revision for folder in folders]


def find_published(model_size, folder):
    """The folders with a published model's configuration, vocabulary, and weights.

    What neither folder nor the cache of Hugging Face has is downloaded to folder.
    """
    places = [folder, *hub_cache(model_size)]
    found = [find(places, names) for names in NEEDED]
    missing = []
    for place, names in zip(found, NEEDED):
        missing += [name for name in names if not (place / name).exists()]
    if missing:
        download_missing(model_size, folder, missing)
    return found


def find(places, names):
    """The first of some folders that has all these files, or else the first of them."""
    for place in places:
        if all((place / name).exists() for name in names):
            return place
    return places[0]


def download_missing(model_size, folder, missing):
    """Download these files of a published model to folder, one process at a time."""
    repository, _, size = PUBLISHED[model_size]
    if SAFETENSORS not in missing:
        size = "1.5 MB"
    print(f"downloading {', '.join(missing)} ({size}) of {repository} to {folder}", file=sys.stderr)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for name in missing:
            if not (folder / name).exists():  # or else another process has brought it
                download(model_size, folder / name)


@contextlib.contextmanager
def locked(folder):
    """Hold a lock on folder, so that one process at a time downloads to it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def download(model_size, path):
    """Download a file of a published model. UserError or OSError says why that failed.

    It grows as path.part, so that a later run can go on from there.
    """
    repository, revision, _ = PUBLISHED[model_size]
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    url = f"{hub}/{repository}/resolve/{revision}/{path.name}"
    part = path.with_name(f"{path.name}.part")
    try:
        fetch(url, part)
        check_sha256(part, SHA256.get(path.name) or SHA256[f"{model_size}/{path.name}"])
        os.replace(part, path)
    except ValueError as error:  # its message may show a password
        raise UserError(f"HF_ENDPOINT or a proxy can't be used: is it an address such as {HUB}? "
                        "A socks proxy needs the package PySocks") from error
    except OSError as error:
        raise OSError(
            f"{path.name} could not be downloaded from {urlsplit(url).hostname}: {reason(error)}. "
            f"The same command tries again. Or put {', '.join(sum(NEEDED, []))} of "
            f"{repository} into {path.parent} by hand. --model_size 1M needs no download"
        ) from error


def reason(error):
    """Why a download failed: urllib3's reason, where requests has wrapped one."""
    wrapped = error.args[0] if error.args else None
    return getattr(wrapped, "reason", error)


def fetch(url, part):
    """Add to the file part what it lacks of url. OSError if two answers in a row bring nothing."""
    part.touch()
    n_fruitless = 0
    while True:
        n_had = part.stat().st_size
        with request(url, n_had) as response:
            if response.status_code == 416:  # there is no more
                return
            try:
                return save(response, part, begin=n_had if response.status_code == 206 else 0)
            except OSError:  # it has broken off
                n_fruitless = 0 if part.stat().st_size > n_had else n_fruitless + 1
                if n_fruitless == 2:
                    raise


def request(url, begin):
    """The hub's answer to a request for url from a byte on. OSError if there is none to use."""
    import requests  # here, since it takes 0.05 s that other runs do not need
    from urllib3.util import Retry

    # By its Retry-After header, a server may ask for hours.
    retry = Retry(3, connect=2, backoff_factor=PAUSE, status_forcelist=[429, 500, 502, 503, 504],
                  raise_on_status=False, respect_retry_after_header=False)
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    headers = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
    response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    if response.status_code not in (200, 206, 416):
        raise OSError(f"HTTP status {response.status_code}")
    return response


def save(response, part, begin):
    """Write a response to the file part, from begin on, with a bar."""
    response.raw.enforce_content_length = True  # as urllib3 2 does by itself
    size = begin + int(response.headers.get("Content-Length", 0))
    bar = tqdm(desc=part.stem, total=size, initial=begin, unit="B", unit_scale=True, disable=None)
    with bar, open(part, "ab" if begin else "wb") as file:
        for chunk in response.iter_content(1 << 16):
            file.write(chunk)
            bar.update(len(chunk))


def check_sha256(part, sha256):
    """Remove the file, and raise OSError, if it isn't what was published."""
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise OSError(f"its sha256 is {found}, not {sha256}, so it was removed")
