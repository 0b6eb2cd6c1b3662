from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PkdrayError)]


def test_the_kinds_were_found():
    assert len(KINDS) > 5


@pytest.mark.parametrize("kind", KINDS)
@given(what=st.text(), cure=st.none() | st.text(), details=st.lists(st.text(), max_size=3))
def test_a_pickle_keeps_everything(kind, what, cure, details):
    error = kind(what, cure=cure, details=details)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(again) is kind
        assert (again.what, again.cure, again.details) == (what, cure, tuple(details))
        assert str(again) == str(error)


def test_the_text_is_the_fault_its_details_and_its_cure():
    error = errors.ConfigError("Two faults:", cure="Mend them.", details=["a is 1", "b is 2"])
    assert str(error) == "Two faults:\n  - a is 1\n  - b is 2\nMend them."


def test_any_kind_is_caught_as_one():
    with pytest.raises(errors.PkdrayError, match="gone"):
        raise errors.DatasetError("gone")
