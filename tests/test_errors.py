import pickle

import pytest

from senet.errors import HubError, MissingExtraError, MissingFileError, NotFiniteError, SenetError

KINDS = {
    MissingFileError: FileNotFoundError,
    HubError: ConnectionError,
    NotFiniteError: FloatingPointError,
    MissingExtraError: ImportError,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_python_kind_and_is_one_of_the_library(kind):
    for caught in (KINDS[kind], SenetError, ValueError):
        with pytest.raises(caught, match=r"^there is no x$"):
            raise kind("there is no x")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_another_process_keeps_its_kind_and_sentence(kind):
    error = pickle.loads(pickle.dumps(kind("there is no x")))
    assert type(error) is kind
    assert str(error) == "there is no x"
