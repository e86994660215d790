"""What surrounds the model: the command line, checkpoint files, downloads."""
import contextlib
import ctypes
import hashlib
import inspect
import itertools
import json
import math
import numbers
import os
import re
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from encoder import GPT2_CLASSES, Encoder, UserError, brief, read_json, reading

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

# The published models on the Hugging Face hub, each at one revision, with the sha256 of its files.
PUBLISHED = {
    "124M": {
        "repository": "openai-community/gpt2",
        "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "size": "548 MB",
        "config.json": "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
        "model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    },
    "355M": {
        "repository": "openai-community/gpt2-medium",
        "revision": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        "size": "1.5 GB",
        "config.json": "ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22",
        "model.safetensors": "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    },
    "774M": {
        "repository": "openai-community/gpt2-large",
        "revision": "32b71b12589c2f8d625668d2335a01cac3249519",
        "size": "3.2 GB",
        "config.json": "7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170",
        "model.safetensors": "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    },
    "1558M": {
        "repository": "openai-community/gpt2-xl",
        "revision": "15ea56dee5df4983c59b2538573817e1667135e2",
        "size": "6.4 GB",
        "config.json": "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a",
        "model.safetensors": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    },
}
VOCABULARY = {  # the same files in all four
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
HUB = "https://huggingface.co"
CONNECT_SECONDS = 5
READ_SECONDS = 30

SAFETENSORS = "model.safetensors"
TF_DATA = "model.ckpt.data-00000-of-00001"
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # types in a safetensors file, in NumPy
MAX_HEADER = 100_000_000  # bytes, by the format's own rule


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
    """End the program in one line where a user can put it right. A bug keeps its traceback."""
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
    file or a pipe, standard error shows a bar, if that is a terminal.
    """
    sys.stdout.reconfigure(errors="replace")  # for a terminal that isn't UTF-8
    on_terminal = sys.stdout.isatty()
    no_bar = True if on_terminal else None  # None: only where standard error is no terminal
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
        line += f", then {n} in {seconds:.2f} s: {n / seconds:,.0f} tokens a second"
    return line


def parse(main, args):
    """main's arguments by name: text, but for those whose default is a number."""
    if "-h" in args or "--help" in args:
        print(usage(main), flush=True)
        sys.exit()

    parameters = inspect.signature(main).parameters
    check_options(parameters, args)
    words, options = words_and_options(args)
    try:
        bound = inspect.signature(main).bind(*words, **options)
    except TypeError as error:
        raise UserError(f'give one prompt, in quotes, "like this" ({error}); '
                        f"{known_options(parameters)}") from error

    for name, value in bound.arguments.items():
        if type(parameters[name].default) is int:
            bound.arguments[name] = whole_number(name, value)
    bound.arguments["prompt"] = read_prompt(bound.arguments["prompt"])
    bound.apply_defaults()
    return bound.arguments


def usage(main):
    """The page that --help prints."""
    program = Path(sys.argv[0]).name
    options = " ".join(f"[--{name} {value}]" for name, value in main.__kwdefaults__.items())
    return (f"{program} PROMPT {options}\n\n{inspect.getdoc(main)}\n\n"
            f'Example:\n    python {program} "Once upon a time" --model_size 1M')


def known_options(parameters):
    names = [f"--{name}" for name in parameters if name != "prompt"]
    return f"the options are {', '.join(names)} and --help"


def check_options(parameters, args):
    """Refuse an unknown option, and one without a value, which fire would take for True."""
    for arg, following in itertools.pairwise([*args, "--"]):
        if not is_option(arg):
            continue
        name = arg.split("=")[0].lstrip("-").replace("-", "_")
        if name not in parameters:
            raise UserError(f'unknown option {arg}; if it is the prompt, write --prompt="{arg}"; '
                            f"{known_options(parameters)}")
        if "=" not in arg and is_option(following):
            raise UserError(f"{arg} needs a value; one that begins with a hyphen is {arg}=VALUE")


def is_option(arg):
    return re.match("--|-[a-zA-Z]", arg)


def words_and_options(args):
    """The words and {option: value} of a command line, all as text.

    fire runs a function before it looks at unknown options, so collect stands in main's place.
    """
    import fire  # here, since only a command line needs it

    @fire.decorators.SetParseFn(str)
    def collect(*words, **options):
        return words, options

    def print_nothing(_):
        return None

    no_separator = "--separator=\0"  # which is "-" otherwise, and that is a prompt here
    return fire.Fire(collect, [*args, "--", no_separator], serialize=print_nothing)


def whole_number(name, text):
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise UserError(f"{name} is a whole number from 1 up, not {brief(text)}")
    return int(text)


def read_prompt(prompt):
    """The prompt; - stands for all of standard input."""
    if prompt == "-" and sys.stdin:
        prompt = sys.stdin.buffer.read().decode(errors="surrogateescape")

    if re.search("[\ud800-\udfff]", prompt):
        encoding = sys.getfilesystemencoding()
        hint = "" if encoding == "utf-8" else f" (the locale's is {encoding}: set PYTHONUTF8=1)"
        raise UserError(f"the prompt is not valid UTF-8{hint}")
    return prompt


def check_inputs(inputs, n_tokens, n_vocab, n_ctx):
    """UserError unless inputs are ids of the vocabulary that fit the context with n_tokens more."""
    if not isinstance(n_tokens, numbers.Integral) or n_tokens < 1:
        raise UserError(f"n_tokens_to_generate is a whole number from 1 up, not {brief(n_tokens)}")
    if len(inputs) == 0:
        raise UserError("the prompt is empty, and the vocabulary has no <|endoftext|> for that")
    for i in inputs:
        if not isinstance(i, numbers.Integral) or not 0 <= i < n_vocab:
            raise UserError(f"id {brief(i)} is not in the vocabulary, which is 0 to {n_vocab - 1}")
    if len(inputs) + n_tokens > n_ctx:
        raise UserError(f"{len(inputs)} prompt tokens and {n_tokens} to generate do not fit this "
                        f"model's context of {n_ctx}: shorten one of them")


# ---------------------------------------------------------------- a model's files


def load_encoder_hparams_and_params(model_size, models_dir=None):
    """Tokenizer, hparams (n_vocab, n_ctx, n_embd, n_head, n_layer), float32 params of a model.

    model_size is a folder in models_dir (if None, models beside this file). What a published model
    lacks there is taken from Hugging Face's cache, or else downloaded. UserError or OSError.
    """
    models_dir = Path(os.path.expanduser(models_dir or Path(__file__).parent / "models"))
    config, vocabulary, weights = find_files(model_size, models_dir / model_size)
    try:
        hparams = read_hparams(config)
        encoder = Encoder(vocabulary, hparams["n_vocab"])
        params = read_params(weights, hparams)
    except FileNotFoundError as error:
        raise OSError(f"{error.filename} is missing") from error

    keep_freed_memory()
    return encoder, hparams, params


def find_files(model_size, folder):
    """Where a model's configuration, the folder of its vocabulary, and its weights are."""
    if model_size in PUBLISHED and not (folder / TF_DATA).exists():
        places = [folder, *hub_cache(model_size)]
        download_missing(model_size, places)
        config = find(places, "config.json") / "config.json"
        weights = find(places, SAFETENSORS) / SAFETENSORS
        return config, find(places, *VOCABULARY), weights

    if (folder / SAFETENSORS).exists():
        return folder / "config.json", folder, folder / SAFETENSORS
    if (folder / TF_DATA).exists():
        return folder / "hparams.json", folder, folder / TF_DATA
    raise UserError(why_no_model(folder))


def find(places, *names):
    """The first of some folders that has all these files, or None."""
    for place in places:
        if all((place / name).exists() for name in names):
            return place
    return None


def why_no_model(folder):
    """Why no model was found in folder, in one line."""
    if not folder.is_dir():
        weights = [*folder.parent.glob(f"*/{SAFETENSORS}"), *folder.parent.glob(f"*/{TF_DATA}")]
        there = ", ".join(sorted(path.parent.name for path in weights)) or "none"
        return (f"no model {folder.name} in {folder.parent}, which has {there}; "
                f"{', '.join(PUBLISHED)} are downloaded when they are asked for")

    names = []
    for path in sorted(folder.glob("[!.]*")):
        names.append(path.name if path.exists() else f"{path.name} (a broken link)")
    has = f"; it has {', '.join(names)}" if names else ""
    return f"{folder} has neither {SAFETENSORS} in one piece nor {TF_DATA}{has:.200}"


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
    """n_vocab, n_ctx, n_embd, n_head, n_layer from a config.json or OpenAI's hparams.json."""
    config = read_json(path)
    hparams = {
        "n_vocab": config.get("vocab_size", config.get("n_vocab")),
        "n_ctx": config.get("n_positions", config.get("n_ctx")),
        "n_embd": config.get("n_embd"),
        "n_head": config.get("n_head"),
        "n_layer": config.get("n_layer"),
    }
    for name, n in hparams.items():
        largest = 1000 if name == "n_layer" else 1_000_000  # no model is larger
        if type(n) is not int or not 0 < n <= largest:
            raise UserError(f"{path}: {name} is {brief(n)}, not a number from 1 to {largest}")
    if hparams["n_embd"] % hparams["n_head"]:
        raise UserError(f"{path}: n_head {hparams['n_head']} does not divide n_embd "
                        f"{hparams['n_embd']}")

    check_architecture(path, config, hparams["n_embd"])
    return hparams


def check_architecture(path, config, n_embd):
    """Refuse what the model files would run wrongly. Of each key's values the first is default."""
    right = {
        "model_type": ["gpt2"],
        "activation_function": ["gelu_new", "gelu_pytorch_tanh"],  # two names of one function
        "layer_norm_epsilon": [1e-5],
        "n_inner": [None, 4 * n_embd],
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


def nest(read, n_vocab, n_ctx, n_embd, n_layer, **_):
    """The dicts that gpt2() takes, with read(name on the hub, shape, order) for each array."""
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
                "c_fc": linear(f"{name}.mlp.c_fc", n_embd, 4 * n_embd),
                "c_proj": linear(f"{name}.mlp.c_proj", 4 * n_embd, n_embd),
            },
        }

    return {
        "wte": read("wte.weight", (n_vocab, n_embd)),
        "wpe": read("wpe.weight", (n_ctx, n_embd)),
        "blocks": [block(f"h.{i}") for i in range(n_layer)],
        "ln_f": norm("ln_f"),
    }


def read_params(path, hparams):
    """Nested dicts of float32 arrays, from a safetensors file or OpenAI's TensorFlow data file.

    Each matrix w lies in memory column by column (see by_columns). UserError names the file.
    """
    with reading(path):
        if path.name == TF_DATA:
            layout = tensorflow_layout(path, hparams)
        else:
            layout = safetensors_layout(path)
        if f"h.{hparams['n_layer']}.ln_1.weight" in layout:
            raise UserError(f"{path}: more layers than the n_layer {hparams['n_layer']} configured")

        nest(partial(check_tensor, path, layout), **hparams)  # before gigabytes are read
        params = nest(partial(read_tensor, path, layout), **hparams)
        check_head(path, layout, params["wte"])
    return params


def safetensors_layout(path):
    """{name: (dtype, shape, offset)}: the header's length (8 bytes), the header (JSON), tensors."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        first_bytes = file.read(8)
        if first_bytes == b"version ":
            raise UserError(f"{path}: a Git LFS pointer, not the weights: run git lfs pull")
        n_header = int.from_bytes(first_bytes, "little")
        if not 0 < n_header <= min(size - 8, MAX_HEADER):
            raise UserError(f"{path}: not a safetensors file, or cut short")
        header = json.loads(file.read(n_header))

    header.pop("__metadata__", None)
    layout, end = {}, 0
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        check_length(path, name, tensor, first, last)
        offset = 8 + n_header + first
        layout[name.removeprefix("transformer.")] = tensor["dtype"], tuple(tensor["shape"]), offset
        end = max(end, 8 + n_header + last)
    if end != size:
        raise UserError(f"{path}: {size} bytes long, but {end} by its header: is it cut short?")
    return layout


def check_length(path, name, tensor, first, last):
    """Refuse a tensor that lies elsewhere than its own type and shape say."""
    dtype, shape = tensor["dtype"], tensor["shape"]
    if dtype in STORED:
        n_bytes = math.prod(shape) * np.dtype(STORED[dtype]).itemsize
        if first < 0 or last - first != n_bytes:
            raise UserError(f"{path}: {brief(name)}, {dtype} of {brief(shape)}, does not take the "
                            f"bytes {brief(first)} to {brief(last)}")


def tensorflow_layout(path, hparams):
    """{name: (dtype, shape, offset)}: float32 tensors alone, in the order of OpenAI's names.

    Those names sort as strings (h1, h10, h2), just as the hub's names do.
    """
    shapes = {}

    def note(name, shape, order="C"):
        shapes[name] = shape

    nest(note, **hparams)
    layout, end = {}, 0
    for name, shape in sorted(shapes.items()):
        layout[name] = "F32", shape, end
        end += 4 * math.prod(shape)
    size = path.stat().st_size
    if end != size:
        raise UserError(f"{path}: {size} bytes long, but {end} by hparams.json: is it cut short?")
    return layout


def check_tensor(path, layout, name, shape, order="C"):
    """Refuse a tensor that is missing, or of another type or shape than the model's."""
    if name not in layout:
        raise UserError(f"{path}: {why_missing(layout, name)}")
    dtype, stored_shape, _ = layout[name]
    if dtype not in STORED:
        raise UserError(f"{path}: {name} is stored as {brief(dtype)}, but only "
                        f"{', '.join(STORED)} can be read")
    if stored_shape != shape:
        raise UserError(f"{path}: {name} is {brief(stored_shape)}, where {shape} belongs")


def why_missing(layout, name):
    """What the names in a file tell about one that isn't there."""
    if any("lora_" in stored for stored in layout):
        return "an adapter's weights: merge them into their model, and save that"
    for stored in layout:
        if stored.endswith(f".{name}"):
            return f"{name} is called {brief(stored)}: take that prefix off all names"
    return f"{name} is missing"


def read_tensor(path, layout, name, shape, order="C"):
    """A tensor as float32, row by row (order C) or column by column (order F)."""
    dtype, _, offset = layout[name]
    stored = np.fromfile(path, STORED[dtype], math.prod(shape), offset=offset).reshape(shape)
    return by_columns(stored) if order == "F" else as_float32(stored)


def as_float32(stored):
    """Numbers as float32. Whole numbers are BF16, which is the upper half of a float32."""
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


def check_head(path, layout, wte):
    """Refuse a model whose output layer isn't wte."""
    if "lm_head.weight" in layout:
        check_tensor(path, layout, "lm_head.weight", wte.shape)
        if not np.array_equal(wte, read_tensor(path, layout, "lm_head.weight", wte.shape)):
            raise UserError(f"{path}: lm_head.weight differs from wte.weight: can't be run")


# ---- downloads


def hub_cache(model_size):
    """The folders in which Hugging Face's own programs keep a published model."""
    model = PUBLISHED[model_size]
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    cache = Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or home / "hub"))
    owner, name = model["repository"].split("/")
    repositories = [f"models--{owner}--{name}", f"models--{name}"]  # the new name and the old
    return [cache / repository / "snapshots" / model["revision"] for repository in repositories]


def missing_files(places):
    """The files of a published model that the first of the folders lacks, and no other has."""
    missing = []
    for names in (["config.json"], [*VOCABULARY], [SAFETENSORS]):
        if not find(places, *names):
            missing += [name for name in names if not (places[0] / name).exists()]
    return missing


def download_missing(model_size, places):
    """Download what is missing to the first of the folders, one process at a time."""
    if not missing_files(places):
        return
    model, folder, hub = PUBLISHED[model_size], places[0], hub_address()

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        missing = missing_files(places)  # again, as another process may have brought them
        size = model["size"] if SAFETENSORS in missing else "1.5 MB"
        if missing:
            print(f"downloading {', '.join(missing)} ({size}) of {model['repository']} to {folder}",
                  file=sys.stderr)
        for name in missing:
            url = f"{hub}/{model['repository']}/resolve/{model['revision']}/{name}"
            download(url, folder / name, VOCABULARY.get(name) or model[name])


def hub_address():
    """The hub's address: HF_ENDPOINT, as mirrors use it, or Hugging Face's own."""
    address = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise UserError(f"HF_ENDPOINT lacks http:// or https:// before {without_secrets(address)}")
    return address


def without_secrets(address):
    """An address for a message: without its user part and its query."""
    scheme, slashes, rest = address.rpartition("://")
    return scheme + slashes + rest.rpartition("@")[2].split("?")[0]


@contextlib.contextmanager
def locked(folder):
    """Hold a lock on folder, where there are locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        wait_for_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def wait_for_lock(descriptor, folder):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that downloads to {folder}", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        pass


def download(url, path, sha256):
    """Fetch url to path by way of path.part, which a later run resumes. OSError if it fails."""
    part = path.with_name(path.name + ".part")
    part.touch()
    while True:
        n_had = part.stat().st_size
        try:
            fetch_rest(url, part)
            break
        except (OSError, ValueError) as error:  # ValueError: a malformed address
            if part.stat().st_size <= n_had:  # this try has brought nothing
                raise OSError(
                    f"{path} from {without_secrets(url)}: {first_cause(error)}. The same command "
                    "goes on from there; --model_size 1M needs no download") from error

    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise OSError(f"{path} from {without_secrets(url)}: its sha256 is {found}, not {sha256}. "
                      "It was removed: the same command downloads it again")
    os.replace(part, path)


def fetch_rest(url, part):
    """Add to the file part what it lacks of url. OSError where that breaks off."""
    import requests  # here, since it takes 0.2 s that other runs do not need

    n_had = part.stat().st_size
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={n_had}-"}
    timeout = CONNECT_SECONDS, READ_SECONDS
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # there is no more
            return
        save(response, part, begin=first_byte(response, n_had))


def first_byte(response, n_had):
    """Where in the file a response begins: at n_had, as asked for, or at 0."""
    sent = response.headers.get("Content-Range", "")
    if response.status_code == 206 and sent.startswith(f"bytes {n_had}-"):
        return n_had
    if response.status_code == 200:
        return 0
    raise OSError(f"HTTP status {response.status_code} {sent}".strip())


def save(response, part, begin):
    """Write a response to the file part, from begin on, with a bar."""
    response.raw.enforce_content_length = True  # as urllib3 2 does by itself
    size = begin + int(response.headers.get("Content-Length", 0))
    name = part.name.removesuffix(".part")
    bar = tqdm(desc=name, total=size, initial=begin, unit="B", unit_scale=True, disable=None)
    with bar, open(part, "ab" if begin else "wb") as file:
        for chunk in response.iter_content(1 << 16):
            file.write(chunk)
            bar.update(len(chunk))


def first_cause(error):
    """What went wrong in the first place: requests and urllib3 wrap an error several times."""
    while error.__context__:
        error = error.__context__
    said = re.sub(r"\S*@", "", str(error)) or type(error).__name__  # no user and password
    return f"{said:.150}"
