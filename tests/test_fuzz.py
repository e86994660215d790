"""A short, repeatable run of fuzz.py, and safetensors headers that hypothesis thinks up."""
import json

import pytest
from checkpoints import header_of, pack, tiny_gpt2, write_model
from fuzz import check, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = b"".join(array.tobytes() for _, array in tiny_gpt2().values())
HEADER = header_of(tiny_gpt2())
INTEGERS = st.integers() | st.integers(0, len(DATA))
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TENSORS = st.fixed_dictionaries({}, optional={
    "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "U8"]) | JSON,
    "shape": st.lists(INTEGERS, max_size=3) | JSON,
    "data_offsets": st.lists(INTEGERS, min_size=2, max_size=2) | JSON,
})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def test_damaged_files_load_right_or_are_refused_by_name():
    outcomes = {seed: (folder, file, outcome) for seed, folder, file, outcome in fuzz(range(300))}
    assert {o for *_, o in outcomes.values()} == {"loaded", "refused"}, {
        seed: found for seed, found in outcomes.items() if found[-1] not in ("loaded", "refused")}


@settings(derandomize=True, max_examples=120, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from([*HEADER, "__metadata__"]), TENSORS | JSON, max_size=3))
def test_any_header_loads_right_or_is_refused_by_name(folder, changes):
    header = HEADER | {name: HEADER[name] | new if name in HEADER and isinstance(new, dict) else new
                       for name, new in changes.items()}
    (folder / "model.safetensors").write_bytes(pack(json.dumps(header).encode(), DATA))
    assert check(folder, "model.safetensors") in ("loaded", "refused")


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.dictionaries(st.text() | st.sampled_from([*HEADER]), TENSORS | JSON) | JSON)
def test_any_json_for_a_header_is_refused_by_name(folder, header):
    (folder / "model.safetensors").write_bytes(pack(json.dumps(header).encode(), DATA))
    assert check(folder, "model.safetensors") == "refused"


# that the checker sees what it is there to see


def test_an_exception_other_than_a_refusal_is_a_finding(tmp_path):
    folder = write_model(tmp_path / "tiny")
    (folder / "merges.txt").unlink()
    assert "FileNotFoundError" in check(folder, "config.json")


def test_a_refusal_that_names_another_file_is_a_finding(tmp_path):
    folder = write_model(tmp_path / "tiny", n_head=3)
    assert "not by name" in check(folder, "model.safetensors")
