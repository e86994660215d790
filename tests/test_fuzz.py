"""A short, repeatable run of damage.py."""
import pytest
from damage import fuzz


@pytest.mark.parametrize("kind", ["checkpoints", "tokenizers"])
def test_damaged_files_load_right_or_are_refused_by_name(kind):
    found = {seed: outcome for seed, _, outcome in fuzz(kind, range(150))}
    assert {*found.values()} == {"loaded", "refused"}, found
