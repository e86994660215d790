"""The two model files: their diff is small and about the cache only."""
import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {name: (ROOT / name).read_text("utf-8") for name in ("gpt2.py", "gpt2_kvcache.py")}
TOUCHED = ["mha", "transformer_block", "gpt2", "generate"]  # by the cache; and kv_cache is new


def functions(name):
    """{function's name: its text, docstring and comments included}, in the order of the file."""
    source = SOURCES[name]
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) for node in nodes}


def test_the_diff_has_at_most_40_changed_lines():
    done = subprocess.run(["diff", *SOURCES], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert 0 < sum(line.startswith(("<", ">")) for line in done.stdout.splitlines()) <= 40


def test_functions_that_the_cache_does_not_touch_are_the_same_text():
    without, cached = functions("gpt2.py"), functions("gpt2_kvcache.py")
    assert cached.pop("kv_cache")
    assert list(without) == list(cached)
    assert [name for name in without if without[name] != cached[name]] == TOUCHED


def test_the_uncached_file_knows_nothing_of_a_cache():
    code = ast.unparse(ast.parse(SOURCES["gpt2.py"]).body[1:])
    assert "cache" not in code and "n_past" not in code


def test_no_branch_on_the_state_of_the_cache():
    for name in (*TOUCHED, "kv_cache"):
        nodes = list(ast.walk(ast.parse(functions("gpt2_kvcache.py")[name])))
        assert not any(isinstance(node, (ast.If, ast.IfExp, ast.BoolOp)) for node in nodes)
        assert not any(node.args.defaults for node in nodes if isinstance(node, ast.FunctionDef))


def test_no_power_operator_and_no_loop_over_heads():
    for name in SOURCES:
        nodes = list(ast.walk(ast.parse(SOURCES[name])))
        assert not any(isinstance(node, ast.Pow) for node in nodes)
        loops = [ast.unparse(node.iter) for node in nodes if isinstance(node, ast.For)]
        assert not any("n_head" in loop for loop in loops)


def test_no_numpy_function_that_makes_float64():
    # np.sqrt(2) is an np.float64 scalar and np.ones(n) an array of them, unless told otherwise
    for source in SOURCES.values():
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
                 and ast.unparse(node.func).startswith("np.")]
        for call in calls:
            of_arrays = any(isinstance(node, ast.Name) and node.id in ("x", "y", "logits")
                            for argument in call.args for node in ast.walk(argument))
            assert of_arrays or "np.float32" in ast.unparse(call), ast.unparse(call)
        assert set(re.findall(r"np\.(float\w*|power|double)", source)) == {"float32"}


def test_only_the_packages_that_the_project_names_are_imported():
    for name in SOURCES:
        imports = [node for node in ast.walk(ast.parse(SOURCES[name]))
                   if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {getattr(node, "module", None) or node.names[0].name for node in imports}
        assert names == {"math", "numpy", "tqdm", "utils"}
