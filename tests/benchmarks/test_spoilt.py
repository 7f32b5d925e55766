"""`benchmarks/spoilt.py`: each way of spoiling a folder is found by `cctkit check`, and the mended folder has no error."""

import argparse
from pathlib import Path

import pytest

from benchmarks.spoil_ways import ONCE, WAYS, Planted
from benchmarks.spoilt import GROUP_BY, count, is_found, mend, spoil, table
from cctkit.cli.app import run

SMALL = argparse.Namespace(source="digits", classes=6, train=24, test=8, small=3, each=1, count=1)


def test_all_that_is_spoilt_is_found_and_nothing_is_invented() -> None:
    result = count(SMALL)
    assert result["ways"] == {way: {"spoilt": 1, "missed": 0} for way in (*ONCE, *WAYS)}
    assert len(ONCE | WAYS) == 12
    assert result["invented"] == []
    assert "| a blank image | 1 | 1 | 0 |" in table(result)


@pytest.mark.slow
def test_ten_seeds_give_ten_folders_in_which_all_is_found() -> None:
    result = count(argparse.Namespace(**{**vars(SMALL), "count": 10}))
    assert {each["missed"] for each in result["ways"].values()} == {0}
    assert result["invented"] == []


def test_a_thing_is_found_if_its_kind_and_all_of_its_paths_are() -> None:
    planted = Planted("copies_across_splits", frozenset({"train/a/1.png", "test/a/1.png"}))
    assert is_found(planted, Planted("copies_across_splits", planted.paths | {"test/a/2.png"}))
    assert not is_found(planted, Planted("copies_across_splits", frozenset({"train/a/1.png"})))
    assert not is_found(planted, Planted("copies_in_class", planted.paths))


def test_a_seed_always_gives_the_same_folder_and_another_one_another(tmp_path: Path) -> None:
    few = argparse.Namespace(**{**vars(SMALL), "train": 12, "test": 4})
    planted = [spoil(tmp_path / name, few, seed)[0] for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    files = [{path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.*")} for name in "abc"]
    assert (planted[0], files[0]) == (planted[1], files[1])
    assert planted[0] != planted[2]


def test_the_mended_folder_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    spoil(folder, SMALL, 1)
    words = ["check", str(folder), "--group-by", GROUP_BY, "--no-suggest", "--quiet"]
    assert run(words) == 2
    assert mend(folder)
    capsys.readouterr()
    assert run(words) == 0, capsys.readouterr().out
