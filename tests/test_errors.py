import pickle

import pytest

from senet.analysis.recording import Recording
from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.data.reading import read_named, read_picture
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


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_named(str(path), lambda: read_picture(path)),
        Recording.load,
        lambda path: open_split(DataConfig(dataset=str(path.parent)), "train"),
    ],
    ids=["image", "recording", "folder"],
)
def test_what_is_not_there_is_a_missing_file(read, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path / "absent")
    assert isinstance(caught.value, SenetError)
    assert str(tmp_path) in str(caught.value)
