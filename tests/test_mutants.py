"""The wrong edits of ``make mutants`` fit the code as it stands; whether the tests notice them, that command tells."""

import pytest
from conftest import ROOT

from tools.mutants import MUTANTS, Mutant, apply


def test_there_are_at_least_25_different_wrong_edits():
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS) >= 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_the_text_to_replace_stands_in_the_code_exactly_once(mutant):
    apply(mutant, ROOT, write=False)


def test_an_edit_that_no_longer_fits_is_named(tmp_path):
    (tmp_path / "x.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="stands 2 times"):
        apply(Mutant("twice", "x.py", "a = 1", "a = 2", "tests"), tmp_path)
