"""Breaks the program in one line at a time; the tests have to notice each of these mutations.

    python tests/mutations.py [--workers N] [ID ...]
"""
import argparse
import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT, TIMEOUT = Path(__file__).parent.parent, 240
MUTATIONS = {  # (files, the tests to begin with): (id, the text that each file has once, another)
    ("gpt2.py gpt2_kvcache.py", "model cache"): [
        ("m01", "c * 0.044715 * x * x", "c * 0.0044715 * x * x"),
        ("m03", "x - x.max(axis=-1, keepdims=True)", "x - 0"),
        ("m04", "y = x - x.max(", "y = x; y -= x.max("),
        ("m08", "eps=1e-5", "eps=1e-6"),
        ("m09", "keepdims=True) + eps)", "keepdims=True)) + eps"),
        ("m13", "d_head**0.5", "np.sqrt(d_head)"),
        ("m15", "scores[:, :, first + i :] += CAUSAL_MASK[: j - i, : j - i]", "pass"),
        ("m19", "np.float32), k=1)", "np.float32), k=2)"),
        ("m20", "np.float32), k=1)", "np.float32), k=0)"),
        ("m21", "x = x + mha(", "x = mha("),
        ("m33", "min(i + BLOCK, n_q)", "min(i + BLOCK - 1, n_q)"),
        ("m35", "ids = list(inputs)", "ids, inputs = inputs, list(inputs)"),
        ("m37", "int(np.argmax(logits))", "np.argmax(logits)"),
        ("m38", "check_inputs(inputs, n_tokens_to_generate, ", "dict("),
        ("m39", "encoder.encode(prompt) or encoder.start", "encoder.encode(prompt)"),
        ("n01", "range(0, n_q, BLOCK)", "range(0, n_q, BLOCK + 1)"),
        ("n02", "scores[:, :, first + i :] +=", "scores[:, :, : j - i] +="),
        ("n03", '"generating", disable=None', '"generating"'),
    ],
    ("gpt2.py", "model cache"): [
        ("m25", "range(len(inputs))", "range(1, len(inputs) + 1)"),
    ],
    ("gpt2_kvcache.py", "cache model"): [
        ("m28", "        n_past = len(ids)\n", ""),
        ("m29", "        n_past = len(ids)\n", "        n_past = len(ids) - 1\n"),
        ("m30", "d_head), dtype=np.float32", "d_head), dtype=np.float64"),
        ("m31", ": n_past + n_seq]", ": n_past + n_seq].copy()"),
        ("m32", "len(ids) + n_tokens_to_generate)", "len(ids) + n_tokens_to_generate - 2)"),
        ("n04", "range(n_past, n_past + n_seq)", "range(n_past + 1, n_past + n_seq + 1)"),
        ("n05", "range(n_past, n_past + n_seq)", "n_past : n_past + n_seq"),
        ("n06", ": n_past + n_seq]", ": n_past or n_seq]"),
        ("n07", "wpe[positions]", "wpe[n_past : n_past + len(inputs)]"),
        ("n08", "kv_cache, strict=True", "kv_cache"),
        ("n09", "list(zip(blocks, kv_cache, strict=True))", "zip(blocks, kv_cache, strict=True)"),
        ("n10", "k.shape[1] - q.shape[1]  #", "max(0, k.shape[1] - q.shape[1] - 1)  #"),
    ],
    ("utils.py", "cli"): [
        ("u01", "print(text, flush=True)", "print(text)"),
        ("u03", "sys.exit(130)", "sys.exit(1)"),
        ("u04", "sys.exit(141 if isinstance(error, BrokenPipeError) else line)", "sys.exit(line)"),
        ("u06", "(UserError, OSError) as error", "UserError as error"),
        ("u07", "{' '.join(str(error).split())}", "{error}"),
        ("u08", 'file or open(os.devnull, "w") for', "file for"),
        ("u10", "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)", "pass"),
        ("u11", "(str)(lambda", '(str, "n_tokens_to_generate", "model_size", "models_dir")(lambda'),
        ("u13", "n_tokens.isdecimal() and int(n_tokens)", "n_tokens.isdecimal()"),
        ("u14", 'if is_option(arg) and "=" not in arg and is_option(following)', "if False"),
        ("u16", '{"-h", "--help"}', '{"--help"}'),
        ("u17", "len(inputs) + n_tokens > n_ctx", "len(inputs) + n_tokens >= n_ctx"),
        ("u20", "not isinstance(n_tokens, int) or n_tokens < 1", "n_tokens < 1"),
        ("n11", "[i for i in inputs if not 0 <= i < n_vocab]", "[]"),
        ("n12", "(UserError, OSError) as error", "(ValueError, OSError) as error"),
        ("n13", '.lstrip("-").replace("-", "_")', '.lstrip("-")'),
        ("n14", 'doc(main)}", flush=True)', 'doc(main)}", file=sys.stderr)'),
        ("n15", 'if is_option(arg) and name not in {"prompt", *main.__kwdefaults__}', "if False"),
        ("n16", "if len(words) != 1", "if not words"),
        ("n17", r', "--", "--separator=\0"]', "]"),
        ("n18", '"--|-[a-zA-Z]"', '"-"'),
        ("n19", 'Path(__file__).parent / "models"', '"models"'),
        ("n20", "os.path.expanduser(models_dir", "str(models_dir"),
    ],
    ("utils.py", "checkpoints"): [
        ("u23", '{*names} <= {"config.json", *VOCABULARY}', '"model.safetensors" not in names'),
        ("u26", '"activation_function": ["gelu_new", "gelu_pytorch_tanh"],', ""),
        ("u29", '"n_inner": [None, 4 * hparams["n_embd"]],', ""),
        ("u32", 'config.get("n_positions", config.get("n_ctx"))', 'config.get("n_positions")'),
        ("u35", "np.fromfile(path, dtype, math.prod(shape), offset=start + first).reshape(shape)",
         'np.memmap(path, dtype, "r", start + first, shape)'),
        ("u39", "(shapes.items())", "(shapes.items(), key=lambda s: (len(s[0].split('.')[1]), s))"),
        ("u40", "if size != path.stat().st_size", "if size > path.stat().st_size"),
        ("u42", 'if "lm_head.weight" in stored and', "if False and"),
        ("u43", 'ln_1.weight" in stored', 'ln_1.weight" in {}'),
        ("u46", ' or [*shape] != stored[name]["shape"]', ""),
        ("e14", "except Exception as", "except RecursionError: raise\n    except Exception as"),
        ("n56", "except Exception as error", "except ValueError as error"),
        ("n21", '["gelu_new", "gelu_pytorch_tanh"]', '["gelu_new"]'),
        ("n23", " or last - first != n_bytes", ""),
        ("u33", "min(start, path.stat().st_size)", "start"),
        ("n51", "first < 0 or ", ""),
        ("n52", 'folder.glob("[!.]*")', 'folder.glob("*")'),
        ("n24", 'if length == b"version "', "if False"),
        ("n25", '("" if path.exists() else " (a broken link)")', '""'),
        ("n26", "if model_size in PUBLISHED else", "if not model_size else"),
    ],
    ("utils.py", "download"): [
        ("u47", "WAIT, TIMEOUT = 5, 2", "WAIT, TIMEOUT = 1, 2"),
        ("u49", '.rstrip("/")', ""),
        ("u50", 'requests.RequestException(f"HTTP',
         '(requests.RequestException, OSError)[status == 429](f"HTTP'),
        ("u51", "if not (folder / name).exists()", "if True"),
        ("u52", "sha256}.items()", "sha256}.items().__reversed__()"),
        ("u53", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
        ("u54", 'path.with_name(path.name + ".part")', "path"),
        ("u56", '"Range": f"bytes={n_had}-"', '"Range": f"bytes={n_had + 1}-"'),
        ("u57", '"Accept-Encoding": "identity", ', ""),
        ("u59", "[*response.history, response]", "[response]"),
        ("u60", "found == (sha256 or declared[0])", "found == [*declared, sha256][0]"),
        ("n28", ".lower())", '.lower()) or [__import__("unittest.mock").mock.ANY]'),
        ("u62", "n_had if resumes else 0", "n_had"),
        ("u63", "status not in (200, 416)", "status != 200"),
        ("u65", "enforce_content_length = True", "enforce_content_length = False"),
        ("u66", "if found == (sha256 or declared[0])", "if True"),
        ("u67", "        part.unlink()\n", ""),
        ("u69", ", timeout=TIMEOUT)", ")"),
        ("n27", ' if path.suffix != ".part"]', "]"),
        ("n29", '{folder}", file=sys.stderr)', '{folder}", file=file)'),
        ("n30", "                fcntl.flock(file, fcntl.LOCK_EX)\n", ""),
        ("n31", "suppress(ImportError, OSError)", "suppress(ImportError)"),
        ("n32", "file.truncate(0)", "pass"),
        ("n33", '"n_embd": 64 * n_head', '"n_embd": 768'),
        ("n34", ' and sent.startswith(f"bytes {n_had}-")', ""),
        ("n35", '" ".join(etags).lower()', '" ".join(etags)'),
        ("n36", "0 if part.stat().st_size > n_had else tries", "tries"),
        ("n37", "part.stat().st_size > n_had", "part.stat().st_size >= n_had"),
        ("n38", 're.sub("//[^/]*@", "//***@", line)', "line"),
    ],
    ("encoder.py", "encoder"): [
        ("u22", "is int and 0 <= i < n_vocab", "is int and 0 <= i <= n_vocab"),
        ("e02", "'(?:[sdmt]", "'(?i:[sdmt]"),
        ("e03", r"|\s+(?!\S)|\s+", r"|\s+"),
        ("e05", r"| ?\p{N}+|", r"| ?[0-9]+|"),
        ("e10", "if lost := [t for t in ids if t.isalpha() and", "if lost := [t for t in [] if"),
        ("e11", "t in bytes_of or t and i", "t in bytes_of or i"),
        ("e12", "< len(ids)", "< len({*ids.values()})"),
        ("e13", "if type(i) is int and 0 <=", "if 0 <="),
        ("e15", "in self._split(text)", "in [text]"),
        ("e18", '() if s and not s.startswith("#version")', "()[1:] if s"),
        ("e19", ".splitlines()", '.split("\\n")[:-1]'),
        ("e20", '(folder / "encoder.json").exists()', "False"),
        ("n55", "if saved:", 'if saved and not (folder / "vocab.json").exists():'),
        ("e22", "isinstance(merge, str) else", "isinstance(merge, str) and not saved else"),
        ("e23", '{token["content"]: token["id"] for token in listed}', "{}"),
        ("e24", 'pre.get("type", "ByteLevel") != "ByteLevel"', "False"),
        ("e25", "def _read_vocabulary", "@__import__('functools').cache\ndef _read_vocabulary"),
        ("n40", ", key=len, reverse=True", ""),
        ("n41", "t in bytes_of or t and i < n_vocab", "True"),
        ("n42", "[ids[token] for token in bytes_of]", "sorted(ids[token] for token in bytes_of)"),
        ("n43", "if part.get(key)]", "if False]"),
        ("n44", 'post.get("special_tokens")', "False"),
        ("n45", 'read("added_tokens.json") | ', ""),
        ("n46", ' | {token["content"]: i for i, token in flagged.items()}', ""),
        ("n47", 'if key.endswith("_token")]', "if False]"),
        ("n48", '["<|endoftext|>", *(t["content"]', '[*(t["content"]'),
        ("n49", 'if token == "<|endoftext|>"]', "]"),
        ("n50", "if re.search(", "if False and re.search("),
    ],
}
ENV = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",  # loopback, and no more
       **dict.fromkeys(["http_proxy", "https_proxy", "all_proxy"], "http://127.0.0.1:9")}
COPIED = shutil.ignore_patterns(  # but not what was downloaded, nor caches
    "[1-9][0-9][0-9]*M", ".git", "*venv*", "__pycache__", ".*_cache", ".hypothesis")
NOT_COUNTED = [  # they compare text, and so notice any change
    "test_readme.py::test_diff", "test_cache.py::test_the_diff_and_the_files_stay_small"]


def mutate(folder, files, id_, old, new):
    for path in [folder / file for file in files.split()]:
        source = path.read_text("utf-8")
        if source.count(old) != 1:
            sys.exit(f"{id_}: {path.name} has this {source.count(old)} times, not once: {old}")
        ast.parse(source.replace(old, new))
        path.write_text(source.replace(old, new), "utf-8")


def failure(folder, tests):
    """Name of the first test that fails, or ""."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider",
         *(f"--deselect=tests/{name}" for name in NOT_COUNTED), *tests],
        cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & ignores it
    try:
        out, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own
        process.communicate()
        return f"more than {TIMEOUT} s"
    failed = re.findall("^(?:FAILED|ERROR) (.*?)(?: - .*)?$", out, re.MULTILINE)
    return (failed or [out[-200:]])[0] if process.returncode else ""


def caught_by(files, first, *mutation):
    """The test that notices a mutation, or ""."""
    with tempfile.TemporaryDirectory() as parent:
        folder = shutil.copytree(ROOT, Path(parent) / "copy", ignore=COPIED)
        if mutation:
            mutate(folder, files, *mutation)
        first, last = ([f"tests/test_{name}.py" for name in names.split()]
                       for names in (first, "readme bench"))
        rest = ["tests", *(f"--ignore={path}" for path in first + last)]
        return failure(folder, first) or failure(folder, rest) or failure(folder, last)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("ids", nargs="*", metavar="ID")
    args = parser.parse_args()
    chosen = [(*where, *mutation) for where, mutations in MUTATIONS.items()
              for mutation in mutations if mutation[0] in args.ids or not args.ids]
    with ThreadPoolExecutor(args.workers) as pool:
        tests = [pool.submit(caught_by, *mutation) for mutation in chosen]
        for (_, _, id_, *_), test in zip(chosen, tests):
            print(id_, f"caught by {test.result()}" if test.result() else "SURVIVED", flush=True)
    print(sum(bool(test.result()) for test in tests), "of", len(chosen), "caught")


if __name__ == "__main__":
    main()
