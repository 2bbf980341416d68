"""Names of shards as they are typed; bash is the judge of braces."""

import subprocess

import pytest

from senet.errors import SenetError
from senet.shards.patterns import expanded, folder_of, is_shard, joined, shown


@pytest.mark.parametrize(
    "pattern",
    [
        "a-{000..012}.tar",
        "{a,b}-{1..3}.tar",
        "a-{8..11}.tar",
        "x{3..1}",
        "{a..c}.tar",
        "{00..10..5}",
        "none.tar",
        "{one}",
    ],
)
def test_braces_stand_for_what_bash_makes_of_them(pattern):
    said = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True).stdout.split()
    assert expanded(pattern) == said


def test_several_patterns_in_one_word():
    assert expanded("a-{0..1}.tar::b.tar") == ["a-0.tar", "a-1.tar", "b.tar"]


@pytest.mark.parametrize("pattern", ["{0..99999999999}.tar", "{000..999}{000..999}{0..9}.tar"])
def test_a_range_without_bounds_is_refused_at_once(pattern):
    with pytest.raises(SenetError, match="more than 1,000,000 shards"):
        expanded(pattern)


def test_messages_show_no_password_or_signature():
    address = "https://me:secret@host/a/b.tar?X-Amz-Signature=abc"
    assert shown(address) == "https://host/a/b.tar"
    assert is_shard(address)
    assert joined("https://host/a?sig=1", "b.tar") == "https://host/a/b.tar?sig=1"
    assert folder_of("https://host/a/b.json?sig=1") == "https://host/a?sig=1"
