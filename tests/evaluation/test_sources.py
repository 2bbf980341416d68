"""Which files a name stands for."""

from pathlib import Path

import pytest
from PIL import Image

from senet.errors import SenetError, warn
from senet.evaluation.sources import expanded, find_images, listed_images, read_list


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/10.jpg", "photos/9.JPG", "photos/trip/a.png", "photos/.hidden/x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(name)
    Path("photos/notes.txt").write_text("no image")
    return Path("photos")


def test_a_folder_is_its_images_at_any_depth(photos: Path) -> None:
    assert find_images(photos) == ["photos/10.jpg", "photos/9.JPG", "photos/trip/a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.jpg", ["photos/10.jpg"]),
        ("photos/*", ["photos/10.jpg", "photos/9.JPG"]),
        ("photos/**/*.png", ["photos/trip/a.png"]),
        ("photos/[0-9].*", ["photos/9.JPG"]),
        ("photos/**", ["photos/10.jpg", "photos/9.JPG", "photos/trip/a.png"]),
        ("**", ["photos/10.jpg", "photos/9.JPG", "photos/trip/a.png"]),
        ("**/*.jpg", ["photos/10.jpg"]),
        ("./**/t*/**/*.png", ["./photos/trip/a.png"]),
        ("p*/**/**/*.png", ["photos/trip/a.png"]),
    ],
)
def test_a_pattern_is_the_images_that_it_matches(photos: Path, pattern: str, expected: list[str]) -> None:
    assert find_images(pattern) == expected


@pytest.mark.parametrize("source", ["photos", "photos/**/*.*", "photos/**"])
def test_links_that_lead_back_are_left_out(photos: Path, source: str, caplog: pytest.LogCaptureFixture) -> None:
    """With two of them there is no end: each turn of one has all turns of the other."""
    warn.cache_clear()
    outside = photos.absolute().with_name("outside")
    outside.mkdir()
    for link, target in (("up", ".."), ("trip/self", "."), ("trip/top", "../../photos"), ("trip/other", outside)):
        photos.joinpath(link).symlink_to(target)
    outside.joinpath("back").symlink_to(photos.absolute())
    photos.joinpath("10.jpg").rename(outside / "10.jpg")
    assert find_images(source) == ["photos/9.JPG", "photos/trip/a.png", "photos/trip/other/10.jpg"]
    assert "trip/other/back: left out, for it is a link to a folder that it is in" in caplog.text
    assert find_images("/".join((str(photos.absolute()), "**", "*.png"))) == [str(photos.absolute() / "trip/a.png")]


def test_a_file_may_be_called_like_a_pattern(photos: Path) -> None:
    (photos / "[1].jpg").write_bytes((photos / "10.jpg").read_bytes())
    assert find_images("photos/[1].jpg") == ["photos/[1].jpg"]
    assert find_images("absent.jpg") == ["absent.jpg"]  # whoever reads it says that it is absent
    assert find_images("") == [""]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("photos/*.bmp", "photos/*.bmp matches no images; check the path"),
        ("s3://a/b.jpg", "s3://a/b.jpg is an address, and images are read from files; download it, and name the file"),
        ("photos/*.txt", "photos/*.txt matches no images (left out: 1 .txt); check the path"),
        ("empty", "empty has no images; check the path"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_what_means_no_image_is_one_sentence(source: str, said: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(SenetError) as caught:
        find_images(source)
    assert str(caught.value) == said


def test_pictures_and_paths_stay_what_they_are(photos: Path) -> None:
    picture, path = Image.new("L", (2, 2)), photos / "10.jpg"
    assert list(expanded([picture, path, "photos/trip"])) == [picture, path, "photos/trip/a.png"]
    assert list(expanded(path)) == [path]


def test_lists_of_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.png\r\n\n b.png\nna\xefve.png")
    assert read_list(tmp_path / "list.txt") == ["a.png", " b.png", "na\udcefve.png"]
    assert list(listed_images(["\ufeffx\n", "\n", "y"])) == ["x", "y"]
    for encoding in ("utf-8-sig", "utf-16"):  # of Windows' editor and shell
        (tmp_path / "windows.txt").write_bytes("ä.png\r\nb.png\r\n".encode(encoding))
        assert read_list(tmp_path / "windows.txt") == ["ä.png", "b.png"]
    with pytest.raises(SenetError, match="the list has NUL characters; list one file a line, or name the files as arg"):
        list(listed_images(["a.png\0b.png\0"]))
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, said in (("empty.txt", "lists no files"), ("none.txt", "there is no list"), ("", "as a list of files")):
        with pytest.raises(SenetError, match=said):
            read_list(tmp_path / name)
