"""The predictions file: what is written comes back, equal content is equal bytes, and nothing malformed is taken."""

import hashlib
import itertools
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from cctkit.errors import ResourceError, UserError
from cctkit.runs.predictions import Predictions, read_predictions, write_predictions

HEADER: dict[str, Any] = {"schema_version": 1, "class_names": ["otter", "seal"], "split": "test", "fingerprint": "f00d"}
TENSORS: dict[str, np.ndarray[Any, Any]] = {
    "ids": np.frombuffer(b"a.pngbc.png", np.uint8),
    "id_offsets": np.array([0, 5, 11], np.int64),
    "labels": np.array([0, 1], np.int64),
    "logits": np.array([[1.5, -2], [0, 0.25]], np.float32),
}


def write_example(path: Path, **changes: Any) -> None:
    values: dict[str, Any] = {
        "ids": ["test/otter/1.png", "test/seal/é.png", "9"],
        "labels": np.array([0, 1, 1]),
        "logits": np.array([[1.5, -2.0], [0.1, 0.25], [-7.0, 3e38]], np.float32),
        "class_names": ("otter", "seal"),
        "split": "test",
        "fingerprint": "f00d",
    }
    write_predictions(path, Predictions(**(values | changes)))


def file_of(path: Path, *, header: object = HEADER, **tensors: np.ndarray[Any, Any]) -> Path:
    path.write_bytes(save(TENSORS | tensors, metadata={"cctkit": json.dumps(header)}))
    return path


def test_predictions_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.safetensors"
    write_example(path)
    got = read_predictions(path)
    assert got.ids == ("test/otter/1.png", "test/seal/é.png", "9")
    assert got.labels.dtype == np.int64
    assert got.labels.tolist() == [0, 1, 1]
    assert got.logits.dtype == np.float32
    assert np.array_equal(got.logits, np.array([[1.5, -2.0], [0.1, 0.25], [-7.0, 3e38]], np.float32))
    assert (got.class_names, got.split, got.fingerprint) == (("otter", "seal"), "test", "f00d")


def test_the_file_has_the_documented_layout(tmp_path: Path) -> None:
    path = tmp_path / "predictions.safetensors"
    write_example(path, ids=["a", "éé", ""])
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata == {
        "cctkit": f'{{"class_names": ["otter", "seal"], "digest": "{digest_in(path)}", "fingerprint": "f00d", '
        '"schema_version": 1, "split": "test"}'
    }
    assert {name: (str(each.dtype), each.shape) for name, each in tensors.items()} == {
        "ids": ("uint8", (5,)),
        "id_offsets": ("int64", (4,)),
        "labels": ("int64", (3,)),
        "logits": ("float32", (3, 2)),
    }
    assert tensors["ids"].tobytes() == b"a\xc3\xa9\xc3\xa9"
    assert tensors["id_offsets"].tolist() == [0, 1, 5, 5]


def test_what_the_images_are_is_kept_and_may_be_unknown(tmp_path: Path) -> None:
    write_example(tmp_path / "p", split_fingerprint="sha256:1")
    assert read_predictions(tmp_path / "p").split_fingerprint == "sha256:1"
    write_example(tmp_path / "p")
    assert read_predictions(tmp_path / "p").split_fingerprint == ""


def digest_in(path: Path) -> str:
    """That of a file's bytes, computed here: of the tensors, then of the header and their entries."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    header = json.loads(entries.pop("__metadata__")["cctkit"])
    del header["digest"]
    return "sha256:" + hashlib.sha256(data[8 + size :] + json.dumps([header, entries], sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_detected(tmp_path: Path, every: int) -> None:
    """In each of the bytes one; 72 of 400 such files passed before there was a digest."""
    path = tmp_path / "p"
    write_example(path)
    whole = path.read_bytes()
    generator = random.Random(0)
    for place in range(0, len(whole), every):
        mutant = whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :]
        assert read_mutant(path, mutant) is None, place


def test_a_file_without_a_digest_is_read_and_known_to_be_unverified(tmp_path: Path) -> None:
    assert not read_predictions(file_of(tmp_path / "old")).is_verified
    write_example(tmp_path / "new")
    assert read_predictions(tmp_path / "new").is_verified


def test_equal_predictions_are_equal_bytes(tmp_path: Path) -> None:
    write_example(tmp_path / "one")
    write_example(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_other_number_formats_and_layouts_are_brought_to_the_files(tmp_path: Path) -> None:
    logits = np.asfortranarray(np.array([[1, 2], [3, 4], [5, 6]], np.float64))
    write_example(tmp_path / "p", logits=logits, labels=np.array([1, 0, 1], np.int32)[::-1])
    got = read_predictions(tmp_path / "p")
    assert got.logits.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert got.labels.tolist() == [1, 0, 1]


def test_logits_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    logits = np.array([[np.nan, 1], [np.inf, 0], [-np.inf, 0]], np.float32)
    write_example(tmp_path / "p", logits=logits)
    assert np.array_equal(read_predictions(tmp_path / "p").logits, logits, equal_nan=True)


def test_a_file_name_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")  # as os.listdir gives it
    write_example(tmp_path / "p", ids=[name, "x", "y"], class_names=(name, "\x1b[31m"))
    got = read_predictions(tmp_path / "p")
    assert got.ids == (name, "x", "y")
    assert got.class_names == (name, "\x1b[31m")


# No lone surrogates: they come from no file system.
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5))
@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_ids_come_back(tmp_path: Path, ids: list[str]) -> None:
    n = len(ids)
    write_example(tmp_path / "p", ids=ids, labels=np.zeros(n, np.int64), logits=np.zeros((n, 2), np.float32))
    assert read_predictions(tmp_path / "p").ids == tuple(ids)


def test_a_file_that_cannot_be_replaced_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.safetensors"
    write_example(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResourceError):
        write_example(path, split="val")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_well_formed_file_of_another_writer_is_read(tmp_path: Path) -> None:
    got = read_predictions(file_of(tmp_path / "p"))
    assert got.ids == ("a.png", "bc.png")


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another type": ({"labels": np.array([0, 1], np.int32)}, "its labels are I32 [2], expected I64 of 1 dimensions"),
    "labels of two dimensions": ({"labels": np.array([[0], [1]])}, "its labels are I64 [2, 1]"),
    "labels of no dimension": ({"labels": np.array(0)}, "its labels are I64 []"),
    "flat logits": ({"logits": np.zeros(2, np.float32)}, "its logits are F32 [2], expected F32 of 2 dimensions"),
    "offsets that are no integers": ({"id_offsets": np.array([0.0, 5, 11])}, "its id_offsets are F64 [3]"),
    "more labels than logits": ({"labels": np.array([0, 1, 1])}, "it has 2 ids, 3 labels and 2 rows of logits"),
    "no offsets": ({"id_offsets": np.zeros(0, np.int64)}, "it has -1 ids"),
    "offsets past the end": ({"id_offsets": np.array([0, 5, 12])}, "its id_offsets do not match its ids"),
    "offsets that leave a rest": ({"id_offsets": np.array([0, 5, 10])}, "its id_offsets do not match its ids"),
    "offsets that go back": ({"id_offsets": np.array([0, 12, 11])}, "its id_offsets do not match its ids"),
    "offsets from the end": ({"id_offsets": np.array([-11, 5, 11])}, "its id_offsets do not match its ids"),
    "a label without a class": ({"labels": np.array([0, 2])}, "its labels run from 0 to 2, expected 0 to 1"),
    "a negative label": ({"labels": np.array([-1, 1])}, "its labels run from -1 to 1, expected 0 to 1"),
    "more classes than names": ({"logits": np.zeros((2, 3), np.float32)}, "it has 2 class names and 3 logits per image"),
    "metadata that is no object": ({"header": [1]}, "its metadata has no 'cctkit'"),
    "another schema": ({"header": HEADER | {"schema_version": 2}}, "its schema version is 2, expected 1"),
    "no schema": ({"header": {}}, "its schema version is None, expected 1"),
    "names in one text": ({"header": HEADER | {"class_names": "ab"}}, "its class_names are not a list of strings"),
    "a name that is a number": ({"header": HEADER | {"class_names": ["a", 2]}}, "its class_names are not a list of strings"),
    "images that are a number": ({"header": HEADER | {"split_fingerprint": 3}}, "its split_fingerprint is not a string"),
    "a split that is a number": ({"header": HEADER | {"split": 3}}, "its split is not a string"),
    "an unknown name": ({"header": HEADER | {"digesu": "x"}}, "its metadata has an unknown digesu"),
    "a digest of other bytes": (
        {"header": HEADER | {"digest": "sha256:0"}},
        "its bytes are not those that were written",
    ),
    "a digest that is no text": ({"header": HEADER | {"digest": None}}, "its bytes are not those that were written"),
    "no fingerprint": (
        {"header": {key: HEADER[key] for key in HEADER if key != "fingerprint"}},
        "its fingerprint is not a string",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_its_fault_named(tmp_path: Path, case: str) -> None:
    parts, fault = MALFORMED[case]
    with pytest.raises(UserError) as caught:
        read_predictions(file_of(tmp_path / "p", **parts))
    assert caught.value.what.startswith(f"not a predictions file: {fault}")
    assert caught.value.where == str(tmp_path / "p")
    assert caught.value.remedy == "make them: cctkit eval RUN"


def raw_file(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


NO_PREDICTIONS = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "text": b"these are no predictions, but a note\n",
    "a header larger than the file": struct.pack("<Q", 2**40) + b"{}",
    "weights of another program": save({"weight": np.zeros((2, 2), np.float32)}),
    "other metadata": save(TENSORS, metadata={"format": "pt"}),
    "metadata that is no JSON": save(TENSORS, metadata={"cctkit": "{"}),
    "metadata nested without end": save(TENSORS, metadata={"cctkit": "[" * 100_000}),
    "a tensor missing": save({k: v for k, v in TENSORS.items() if k != "logits"}, metadata={"cctkit": json.dumps(HEADER)}),
    "a type that numpy has not": raw_file(
        json.dumps(
            {"__metadata__": {"cctkit": json.dumps(HEADER)}, "ids": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
        ).encode(),
        b"ab",
    ),
}


@pytest.mark.parametrize("case", NO_PREDICTIONS)
def test_other_files_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "p"
    path.write_bytes(NO_PREDICTIONS[case])
    with pytest.raises(UserError, match="not a predictions file"):
        read_predictions(path)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="there is no such predictions file"):
        read_predictions(tmp_path / name)


def test_names_in_a_message_are_printable(tmp_path: Path) -> None:
    header = HEADER | {"schema_version": "\x1b[31m\n\u202e"}
    with pytest.raises(UserError) as caught:
        read_predictions(file_of(tmp_path / "evil\x1b[0m", header=header))
    assert str(caught.value).isprintable()


WHOLE = save(TENSORS, metadata={"cctkit": json.dumps(HEADER, sort_keys=True)})


def read_mutant(path: Path, data: bytes) -> Predictions | None:
    """The predictions, None where they are refused; anything else that is raised is a failure."""
    path.write_bytes(data)
    try:
        return read_predictions(path)
    except UserError:
        return None


def test_truncations_are_refused(tmp_path: Path) -> None:
    assert read_mutant(tmp_path / "p", WHOLE) is not None
    assert all(read_mutant(tmp_path / "p", WHOLE[:size]) is None for size in range(0, len(WHOLE), 3))


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_mutant_is_read_whole_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for position, byte in changes:
        data[position] = byte
    got = read_mutant(tmp_path / "p", bytes(data))
    if got is not None:
        assert len(got.ids) == len(got.labels) == len(got.logits)
        assert all(0 <= label < len(got.class_names) for label in got.labels)


def test_the_offsets_of_mutants_are_really_checked(tmp_path: Path) -> None:
    """Every ordering of the right offsets but the right one is refused."""
    for order in itertools.permutations([0, 5, 11]):
        got = read_mutant(file_of(tmp_path / "p", id_offsets=np.array(order)), (tmp_path / "p").read_bytes())
        assert (got is not None) == (order == (0, 5, 11))
