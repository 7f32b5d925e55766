"""Which files an argument of `cctkit predict` stands for."""

import io
import os
from pathlib import Path

import pytest

from cctkit.errors import UserError
from cctkit.prediction.inputs import ImageFile, Inputs


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files: which are images is told by their endings."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/2.PNG", "a/1.jpg", "a/deep/er/3.webp", "a/notes.txt", "a/.hidden/4.png", "a/.5.png", "b/6.png", "7.heic"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def paths(*arguments: str, stdin: bytes | None = None) -> list[str]:
    return [file.path for file in Inputs(arguments, stdin=None if stdin is None else io.BytesIO(stdin))]


def test_a_folder_is_searched_at_any_depth_and_other_files_are_counted(tree: Path) -> None:
    inputs = Inputs(["a"], stdin=None)
    assert list(inputs) == [
        ImageFile("a/1.jpg", "1.jpg"),
        ImageFile("a/2.PNG", "2.PNG"),
        ImageFile("a/deep/er/3.webp", "deep/er/3.webp"),
    ]
    assert inputs.note() == "ignored in folders: 1 file without the ending of an image (.txt 1)"
    assert Inputs(["b"], stdin=None).note() is None


def test_a_file_that_is_named_is_taken_whatever_its_ending(tree: Path) -> None:
    assert paths("a/notes.txt", "7.heic", "b/6.png") == ["a/notes.txt", "7.heic", "b/6.png"]


def test_a_link_to_a_folder_above_is_not_followed_and_one_to_another_is(tree: Path) -> None:
    os.symlink("..", "a/deep/up")
    os.symlink("../b", "a/beside")
    assert paths("a") == ["a/1.jpg", "a/2.PNG", "a/beside/6.png", "a/deep/er/3.webp"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.jpg", ["a/1.jpg"]),
        ("a/*", ["a/1.jpg", "a/2.PNG", "a/deep/er/3.webp"]),
        ("**/*.webp", ["a/deep/er/3.webp"]),
        ("a/**", ["a/1.jpg", "a/2.PNG", "a/deep/er/3.webp"]),
        ("[ab]/[26].*", ["a/2.PNG", "b/6.png"]),
    ],
)
def test_a_pattern_is_expanded_and_gives_each_image_once(tree: Path, pattern: str, expected: list[str]) -> None:
    assert paths(pattern) == expected


def test_a_folder_without_images_that_a_pattern_matches_is_no_error(tree: Path) -> None:
    Path("a/empty").mkdir()
    assert paths("a/*/") == ["a/deep/er/3.webp"]


def test_an_existing_name_is_no_pattern(tree: Path) -> None:
    for name in ("b/x[1].png", "b/x1.png"):
        Path(name).touch()
    assert paths("b/x[1].png") == ["b/x[1].png"]


def test_what_names_no_image_beside_others_is_an_error_of_its_own(tree: Path) -> None:
    Path("empty").mkdir()
    assert list(Inputs(["b", "*.gif", "empty", "gone.png", "nul\0.png"], stdin=None)) == [
        ImageFile("b/6.png", "6.png"),
        ImageFile("*.gif", "*.gif", "no image matches this pattern"),
        ImageFile("empty", "empty", "no image in this folder"),
        ImageFile("gone.png", "gone.png", "no such file or folder"),
        ImageFile("nul\0.png", "nul\0.png", "no such file or folder"),
    ]
    assert Inputs(["b", "*.gif"], stdin=None).count() == 2


def test_a_folder_that_cannot_be_read_is_an_error_and_its_neighbours_are_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: str) -> object:
        if path == "a/deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert list(Inputs(["a"], stdin=None))[-1] == ImageFile("a/deep", "deep", "Permission denied")
    assert len(paths("a", "b")) == 4


@pytest.mark.parametrize("arguments", [["*.gif"], ["a/deep/er/none"], ["7*"], ["*.gif", "gone"]])
def test_no_image_at_all_is_an_error_at_once(tree: Path, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="found no image"):
        Inputs(arguments, stdin=None).count()


def test_a_list_on_stdin_has_a_path_a_line_of_files_and_folders_and_is_not_counted(tree: Path) -> None:
    Path(os.fsdecode(b"b/\xff.png")).touch()
    lines = b"a/2.PNG\r\n\n  \nb\nb/*.png\n" + b"gone.png"
    assert paths("7.heic", "-", stdin=lines) == [
        "7.heic",
        "a/2.PNG",
        "  ",
        "b/6.png",
        os.fsdecode(b"b/\xff.png"),
        "b/*.png",
        "gone.png",
    ]
    assert Inputs(["-"], stdin=io.BytesIO(lines)).count() is None


class Unreadable(io.BytesIO):
    def readline(self, size: int | None = -1, /) -> bytes:
        raise OSError("Input/output error")


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (io.BytesIO(b"\n\n"), "the list of images is empty"),
        (None, "cannot read the list of images: it is closed"),
        (Unreadable(), "cannot read the list of images: Input/output error"),
        (io.BytesIO(bytes(100_000)), "a line of more than 65,536 bytes is no path"),
    ],
)
def test_a_list_that_cannot_be_read_or_is_empty_is_an_error(stdin: io.BytesIO | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Inputs(["-"], stdin=stdin))
