"""`check_dataset`: each way to spoil a folder is found, with its paths; nothing is found in a good folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit.config.settings import DataConfig
from cctkit.data.check.check import DataCheck, check_dataset
from cctkit.data.check.finding import CheckFinding
from cctkit.data.dataset import load_dataset
from cctkit.data.packed.read import open_packed
from cctkit.errors import UserError
from tests.data.messy import messy_folder
from tests.data.test_near_copies import jpeg, scenes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 training and 5 test images, 40 x 40."""
    root = tmp_path_factory.mktemp("good")
    pictures = iter(scenes(50, side=40))
    for part, number in (("train", 20), ("test", 5)):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                next(pictures).save(root / part / name / f"{i:02}.png")
    return root


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of `good` to spoil."""
    return Path(shutil.copytree(good, tmp_path / "images"))


def check(folder: Path, **config: Any) -> DataCheck:
    data = DataConfig(dataset=str(folder), **config)
    return check_dataset(data, progress=lambda *_: None, notify=lambda _: None)


def found(folder: Path, **config: Any) -> dict[str, CheckFinding]:
    findings = check(folder, **config).findings
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def test_nothing_is_found_in_a_good_folder(good: Path) -> None:
    result = check(good)
    assert result.findings == ()
    assert not result.would_spoil
    assert result.num_images == {"train": 40, "test": 10}
    assert result.median_side == 40


def picture(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def copy_into_test(root: Path) -> None:
    shutil.copy(root / "train/ant/03.png", root / "test/ant/copy.png")


def re_encode_into_test(root: Path) -> None:
    jpeg(picture(root / "train/bee/04.png"), 85).save(root / "test/bee/again.jpg", quality=95)


def copy_into_other_class(root: Path) -> None:
    shutil.copy(root / "train/ant/03.png", root / "train/bee/other.png")


def copy_in_class(root: Path) -> None:
    picture(root / "train/ant/03.png").save(root / "train/ant/03.bmp")


def resize_in_class(root: Path) -> None:
    picture(root / "train/ant/05.png").resize((80, 80), Image.Resampling.BICUBIC).save(root / "train/ant/05b.png")


def cut_off(root: Path) -> None:
    path = root / "train/bee/07.png"
    path.write_bytes(path.read_bytes()[:400])


def remove_class_from_test(root: Path) -> None:
    shutil.rmtree(root / "test/bee")


def misspell(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "Ant ").mkdir()
        for i in range(20 if part == "train" else 5):
            scenes(1, seed=1000 + i + 50 * (part == "test"), side=40)[0].save(root / part / "Ant " / f"{i}.png")


def blank(root: Path) -> None:
    Image.new("RGB", (40, 40), (200, 210, 220)).save(root / "train/bee/blank.png")


def shrink(root: Path) -> None:
    picture(root / "train/ant/09.png").resize((12, 12)).save(root / "train/ant/09.png")


def lengthen(root: Path) -> None:
    scenes(1, seed=5, side=200)[0].resize((200, 90)).save(root / "train/ant/panorama.png")


def enlarge(root: Path) -> None:
    scenes(1, seed=6, side=64)[0].resize((6000, 5000), Image.Resampling.NEAREST).save(
        root / "train/ant/huge.png", compress_level=1
    )


def turn(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scenes(1, seed=7, side=40)[0].save(root / "train/ant/phone.jpg", exif=exif, quality=95)


def grey(root: Path) -> None:
    scenes(1, seed=8, side=40)[0].convert("L").convert("RGB").save(root / "train/ant/grey.png")


def wrong_ending(root: Path) -> None:
    os.rename(root / "train/ant/08.png", root / "train/ant/08.jpg")


def sixteen_bits(root: Path) -> None:
    values = np.asarray(scenes(1, seed=9, side=40)[0].convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(root / "train/ant/scan.tif")


def phone_format(root: Path) -> None:
    (root / "train/ant/IMG.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def put_class_inside(root: Path) -> None:
    (root / "train/ant/bee").mkdir()
    scenes(1, seed=10, side=40)[0].save(root / "train/ant/bee/1.png")


def put_folder_inside(root: Path) -> None:
    (root / "train/ant/monday").mkdir()
    scenes(1, seed=11, side=40)[0].save(root / "train/ant/monday/1.png")


def lose_images(root: Path) -> None:
    for i in range(1, 20):
        (root / f"train/bee/{i:02}.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "kind", "severity", "paths"),
    [
        (copy_into_test, "copies_across_splits", "error", {"train/ant/03.png", "test/ant/copy.png"}),
        (re_encode_into_test, "near_copies_across_splits", "warning", {"train/bee/04.png", "test/bee/again.jpg"}),
        (copy_into_other_class, "copies_across_classes", "warning", {"train/ant/03.png", "train/bee/other.png"}),
        (copy_in_class, "copies_in_class", "note", {"train/ant/03.png", "train/ant/03.bmp"}),
        (resize_in_class, "near_copies_in_class", "note", {"train/ant/05.png", "train/ant/05b.png"}),
        (cut_off, "broken", "error", {"train/bee/07.png"}),
        (remove_class_from_test, "missing_class", "error", {"test/bee"}),
        (misspell, "classes_alike", "error", {"train/ant", "test/ant", "train/Ant ", "test/Ant "}),
        (blank, "uniform", "warning", {"train/bee/blank.png"}),
        (shrink, "tiny", "warning", {"train/ant/09.png"}),
        (lengthen, "elongated", "warning", {"train/ant/panorama.png"}),
        (enlarge, "huge", "note", {"train/ant/huge.png"}),
        (turn, "rotated", "note", {"train/ant/phone.jpg"}),
        (grey, "grey", "note", {"train/ant/grey.png"}),
        (wrong_ending, "wrong_ending", "note", {"train/ant/08.jpg"}),
        (sixteen_bits, "bit_depths", "note", {"train/ant/scan.tif"}),
        (phone_format, "unread_format", "warning", {"train/ant/IMG.HEIC"}),
        (put_class_inside, "nested_class", "warning", {"train/ant/bee"}),
        (put_folder_inside, "nested_folder", "note", {"train/ant/monday"}),
        (lose_images, "few_images", "warning", {"train/bee"}),
    ],
)
def test_each_way_to_spoil_a_folder_is_found(
    folder: Path, spoil: Callable[[Path], None], kind: str, severity: str, paths: set[str]
) -> None:
    spoil(folder)
    result = check(folder)
    (finding,) = (finding for finding in result.findings if finding.kind == kind)
    assert set(finding.paths) == paths
    assert finding.severity == severity
    assert finding.remedy
    assert result.would_spoil == (severity == "error")
    others = {finding.kind for finding in result.findings} - {kind}
    assert others <= {"bit_depths", "grey", "few_images", "uneven", "tiny"}  # what a change brings with it


def test_the_worst_comes_first(folder: Path) -> None:
    for spoil in (turn, blank, cut_off, phone_format, copy_into_test):
        spoil(folder)
    severities = [finding.severity for finding in check(folder).findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert severities.count("error") == 2


def test_every_path_of_a_finding_is_named(folder: Path) -> None:
    for i in range(30):
        (folder / f"train/ant/{i}.heic").write_bytes(b"x")
    assert len(found(folder)["unread_format"].paths) == 30


def test_a_broken_image_is_named_with_its_reason_whatever_its_name(folder: Path) -> None:
    os.rename(folder / "train/bee/07.png", folder / "train/bee/a: b.png")
    path = folder / "train/bee/a: b.png"
    path.write_bytes(path.read_bytes()[:400])
    finding = found(folder)["broken"]
    assert finding.paths == ("train/bee/a: b.png",)
    assert "truncated" in finding.reasons[0]


def test_a_skipped_broken_image_spoils_nothing(folder: Path) -> None:
    cut_off(folder)
    assert found(folder, skip_bad=True)["broken"].severity == "note"


def test_copies_are_kept_together_by_a_split_made_here_and_spoil_nothing(folder: Path) -> None:
    copy_in_class(folder)
    kinds = found(folder / "train")
    assert kinds.keys() >= {"copies_in_class"}
    assert not {"copies_across_splits"} & kinds.keys()


def test_a_class_that_cannot_be_split_is_an_error(folder: Path) -> None:
    for i in range(1, 20):
        (folder / f"train/bee/{i:02}.png").unlink()
    finding = found(folder / "train")["cannot_split"]
    assert finding.severity == "error"
    assert "bee" in finding.text


def test_an_image_with_its_sides_swapped_is_pointed_out(tmp_path: Path) -> None:
    for i, image in enumerate(scenes(44, side=80)):
        place = tmp_path / ("ant" if i % 2 else "bee") / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        image.resize((80, 60)).save(place)
    scenes(1, seed=3, side=80)[0].resize((60, 80)).save(tmp_path / "ant" / "side.png")
    assert found(tmp_path)["sideways"].paths == ("ant/side.png",)


def test_imbalance_is_that_of_the_training_images(folder: Path) -> None:
    lose_images(folder)  # of the 20 training images of a class one remains, beside its 5 test images
    finding = found(folder)["uneven"]
    assert finding.text.startswith("class imbalance, 20 to 1")
    assert "--class-weights" in finding.remedy


def test_a_class_of_grey_images_is_a_warning(folder: Path) -> None:
    for part in ("train", "test"):
        for path in (folder / part / "ant").iterdir():
            picture(path).convert("L").convert("RGB").save(path)
    for path in (folder / "train/bee").iterdir():  # less than half of all images are grey
        picture(path).transpose(Image.Transpose.ROTATE_90).save(path.with_name(f"r{path.name}"))
    finding = found(folder)["grey"]
    assert finding.severity == "warning"
    assert "ant" in finding.text


def test_training_uses_the_file_that_the_check_packed(folder: Path, cache: Path) -> None:
    check(folder)
    (packed,) = cache.glob("*.safetensors")
    before = packed.stat()
    load_dataset(DataConfig(dataset=str(folder)))
    assert list(cache.glob("*.safetensors")) == [packed]
    assert packed.stat().st_ino == before.st_ino


def test_a_packed_file_is_checked_by_its_pixels(folder: Path, cache: Path) -> None:
    copy_into_test(folder)
    check(folder)
    (path,) = cache.glob("*.safetensors")
    assert open_packed(path).name == "images"
    result = check(path)
    assert [finding.kind for finding in result.findings] == ["copies_across_splits"]
    assert result.median_side is None


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "bee").mkdir()
    with pytest.raises(UserError, match="no image"):
        check(tmp_path)


def test_what_training_reports_is_found_too(tmp_path: Path) -> None:
    kinds = found(messy_folder(tmp_path))
    assert kinds.keys() >= {"uneven", "shallow", "unread_format", "link", "outside", "broken", "pages", "beside", "other_file"}
    assert len(kinds["broken"].paths) == 4
    assert all(finding.remedy for finding in kinds.values())
