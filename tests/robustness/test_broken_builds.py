"""The tests of these promises can fail: each does where what guards it is switched off, here and not in the product."""

import contextlib
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cctkit.data.preprocess import decode, strict_pillow
from cctkit.digests import check_digest
from cctkit.errors import UserError
from cctkit.models.foreign import read_foreign
from cctkit.training import checkpoint
from tests.models.test_foreign import exploits
from tests.robustness.archives import faults_of_hostile, png_bomb
from tests.robustness.commands import Play, make_play, run_command, run_line
from tests.robustness.originals import Originals
from tests.robustness.readers import READERS, Reader, tally
from tests.robustness.spoilt import faults_of
from tests.robustness.trials import Memory, attempt, results_of


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Play:
    return make_play(tmp_path_factory.mktemp("play"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("weights", "cctkit.models.weights"),
        ("predictions", "cctkit.runs.predictions"),
        ("digests of training images", "cctkit.data.overlap"),
    ],
)
def test_without_digests_mutants_are_read_with_other_results(
    name: str, module: str, originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{module}.check_digest", lambda *_, **__: True)
    found = tally(READERS[name], originals, tmp_path / "mutants", seed=1, count=120)
    assert any("other results" in failure for failure in found.failures)


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.slow
def test_without_the_sums_of_a_manifest_a_checkpoint_is_read_with_other_results(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_facts", lambda _: _Anything())
    found = tally(READERS["checkpoint"], originals, tmp_path / "mutants", seed=1, count=40)
    assert any("other results" in failure for failure in found.failures)


@pytest.mark.slow
def test_without_checksums_packed_images_are_read_with_other_results(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cctkit.data.packed.read.Packed._check", lambda *_: None)
    found = tally(READERS["packed images"], originals, tmp_path / "mutants", seed=1, count=60)
    assert any("other results" in failure for failure in found.failures)


@pytest.mark.slow
def test_without_the_checksum_of_an_archive_its_batches_are_read_with_other_results(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cctkit.data.sources.archives._check_md5", lambda *_: None)
    found = tally(READERS["cifar_binary archive"], originals, tmp_path / "mutants", seed=1, count=40)
    assert any("other results" in failure for failure in found.failures)


def reader_of(read: Any) -> Reader:
    """A reader of one file of text."""
    return Reader(
        name="broken",
        guard="none",
        mutate=lambda rng, data: data + rng.randbytes(3),
        place=lambda _, folder: [_written(folder / "file")],
        read=lambda _, folder: read(folder / "file"),
    )


def _written(path: Path) -> Path:
    path.write_bytes(b"abc")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_a_reader_that_raises_hangs_takes_gigabytes_or_writes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.robustness.trials.MOST_BYTES", 2**25)

    def raises(path: Path) -> int:
        return len(path.read_bytes()) if path.read_bytes() == b"abc" else {}["x"]  # type: ignore[no-any-return]

    def hangs(path: Path) -> None:
        is_whole = path.read_bytes() == b"abc"
        while not is_whole:
            pass

    def grows(path: Path) -> int:
        return len(path.read_bytes()) if path.read_bytes() == b"abc" else int(np.ones(2**24).sum())

    def writes(path: Path) -> int:
        if path.read_bytes() != b"abc":
            path.with_name("more").touch()
        return 0

    cases: tuple[tuple[Any, str], ...] = ((raises, "KeyError"), (hangs, "hangs"), (grows, "MB"), (writes, "other files behind"))
    for read, words in cases:
        monkeypatch.setattr("tests.robustness.trials.LONGEST_S", 0.3 if read is hangs else 30.0)
        found = tally(reader_of(read), None, tmp_path / read.__name__, seed=0, count=1)  # type: ignore[arg-type]
        assert len(found.failures) == 1
        assert words in found.failures[0]


@pytest.mark.slow
def test_an_error_without_its_file_or_with_another_exit_code_is_found(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cctkit.cli.app._print_error", lambda *_: None)
    assert any("is not named" in fault for fault in faults_of("metrics.jsonl", "empty", originals, tmp_path / "unnamed"))
    monkeypatch.setattr("cctkit.errors.UserError.exit_code", 1)
    assert any("exit code 1" in fault for fault in faults_of("metrics.jsonl", "empty", originals, tmp_path / "code"))


@pytest.mark.slow
def test_without_escaping_control_characters_reach_the_output(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cctkit.text.unicodedata", SimpleNamespace(category=lambda _: "Lu"))
    (ran,) = run_command("predict", play, tmp_path / "here", on_terminal=False, most=1)
    assert any("control sequence" in fault for fault in ran.faults)
    monkeypatch.chdir(tmp_path)
    ran = run_line(["predict", str(play.images), "--model", str(play.run), "--json"], play)
    assert any("raw character" in fault for fault in ran.faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("escape", "words", "fault"),
    [
        ("cctkit.cli.prediction_rows.csv_cell", ["predict", "IMAGES", "--model", "RUN", "--csv", "new.csv"], "is a formula"),
        ("cctkit.hub.card.escaped", ["card", "RUN", "-o", "new"], "<script>"),
        ("cctkit.cli.compare_view._escaped", ["compare", "--runs", "RUN", "--markdown"], "<script>"),
    ],
)
def test_without_the_escaping_of_a_format_names_are_active(
    escape: str, words: list[str], fault: str, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(escape, lambda text: text)
    ran = run_line([{"IMAGES": str(play.images), "RUN": str(play.run)}.get(word, word) for word in words], play)
    assert any(fault in each for each in ran.faults)


@pytest.mark.slow
def test_a_connection_that_slips_in_is_found(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one of which nothing is said: whoever reports home swallows the errors."""

    def report_home(*_: object) -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(("example.org", 443), timeout=1)

    monkeypatch.setattr("cctkit.cli.tables.print_json", report_home)
    monkeypatch.chdir(tmp_path)
    assert run_line(["models", "--json"], play).connections == ["create_connection(('example.org', 443),)"]


def _unpacked(archive: Any, path: Path) -> Iterator[tuple[str, bytes]]:
    """As torchvision and many scripts do it."""
    with tarfile.open(path) as tar:
        tar.extractall(path.parent, filter="fully_trusted")
    for part in archive.parts:
        yield part, (path.parent / archive.folder / part).read_bytes()


@pytest.mark.parametrize("name", ["a path upwards", "a link to a folder, and a file in it"])
def test_an_archive_that_is_unpacked_writes_elsewhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cctkit.data.sources.archives._members", _unpacked)
    assert any("it wrote" in fault and "outside" in fault for fault in faults_of_hostile(name, tmp_path / "here"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_without_the_pixel_cap_a_bomb_takes_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(4000))
    monkeypatch.setattr("tests.robustness.trials.MOST_BYTES", 2**25)

    def outcome(most: int) -> tuple[str, str]:
        def read() -> object:
            with strict_pillow():
                return decode(str(path), max_pixels=most).pixels

        return attempt(read, results_of(None), has_digest=False)

    assert outcome(10**6) == ("refused", "")
    assert "MB" in outcome(10**9)[1]


def test_weights_that_may_run_code_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.save(exploits(tmp_path / "mark")["system"], tmp_path / "w.pth")
    with pytest.raises(UserError, match="not run"):
        read_foreign(tmp_path / "w.pth")
    assert not (tmp_path / "mark").exists()
    broken = SimpleNamespace(
        load=lambda path, **_: torch.load(path, weights_only=False), serialization=torch.serialization, strided=torch.strided
    )
    monkeypatch.setattr("cctkit.models.foreign.torch", broken)
    with pytest.raises(UserError, match="no weights"):
        read_foreign(tmp_path / "w.pth")
    assert (tmp_path / "mark").exists()


def test_the_digest_that_is_switched_off_here_is_the_one_that_is_read() -> None:
    """Else the first test would prove nothing."""
    import cctkit.data.overlap
    import cctkit.models.weights
    import cctkit.runs.predictions

    for module in (cctkit.data.overlap, cctkit.models.weights, cctkit.runs.predictions):
        assert module.check_digest is check_digest  # type: ignore[attr-defined]
    assert Memory().grown() < 2**25
