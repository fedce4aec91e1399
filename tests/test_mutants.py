"""The mutations of ``make mutants`` fit the code as it stands; whether the tests catch them, that command tells."""

import pytest

from tools.mutants import MUTATIONS, Mutation, apply
from tools.notebooks import ROOT
from tools.tables import TABLES


def test_there_are_at_least_80_different_mutations():
    assert len({(m.file, m.old, m.new) for m in MUTATIONS}) == len(MUTATIONS) >= 80


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_the_text_to_replace_stands_in_the_code_exactly_once(mutation):
    apply(mutation, ROOT, write=False)


def test_the_table_of_mutations_is_about_all_files_and_tests_that_they_need():
    about = TABLES["mutants"].about
    assert {m.file for m in MUTATIONS if not m.file.startswith(about)} == set()
    assert {test for m in MUTATIONS for test in m.tests.split()} <= set(about)


def test_a_mutation_that_no_longer_fits_is_refused(tmp_path):
    (tmp_path / "x.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="stands 2 times"):
        apply(Mutation("twice", "x.py", "a = 1", "a = 2", "tests"), tmp_path)
