"""Every reader of a file from outside: its original, how it is spoilt, and what is read of it."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from cctkit.cli.curves import read_records
from cctkit.cli.import_weights import _class_names
from cctkit.config.settings import TrainConfig
from cctkit.data.overlap import read_seen
from cctkit.data.packed.read import open_packed
from cctkit.data.preprocess import decode, peek, read_header, strict_pillow
from cctkit.data.source import BadImageError
from cctkit.data.sources.archives import archive_origin
from cctkit.engine.device import DevicePolicy
from cctkit.engine.environment import differences, read_environment
from cctkit.engine.probe import known_probe, probe_key
from cctkit.errors import UserError
from cctkit.models.foreign import read_foreign
from cctkit.models.onnx_file import read_onnx
from cctkit.models.timm_config import read_timm_config
from cctkit.models.weights import check_tensors, read_info, read_weights
from cctkit.runs.comparison import run_row
from cctkit.runs.predictions import read_predictions
from cctkit.runs.runfiles import read_config, read_settings
from cctkit.runs.seeds import read_seeds
from cctkit.training.checkpoint import load_checkpoint
from tests.data.packs import pack
from tests.robustness import mutate
from tests.robustness.mutate import Mutate
from tests.robustness.originals import Originals
from tests.robustness.trials import Tally, Unverified, attempt, results_of

SHA, NONE = "SHA-256", "none"
_JSON = "none: text to read and edit"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """guard: what the format has against damage. `read` gives the results of the files in `folder`.

    place: makes the intact files in an empty folder; gives those of which each mutant spoils one.
    """

    name: str
    guard: str
    mutate: Mutate
    place: Callable[[Originals, Path], list[Path]]
    read: Callable[[Originals, Path], object]

    @property
    def has_digest(self) -> bool:
        return not self.guard.startswith(NONE)


def tally(reader: Reader, originals: Originals, folder: Path, *, seed: int, first: int = 0, count: int) -> Tally:
    """What comes of the mutants `first` to `first + count` of a seed. Each depends on its own number alone."""
    found = Tally(promise=6, what=reader.name, guard=reader.guard, seed=seed)
    for number, outcome, why in attempts(reader, originals, folder, seed=seed, first=first, count=count):
        found.add(outcome, why, of=f"{reader.name} {number}")
    return found


def attempts(
    reader: Reader, originals: Originals, folder: Path, *, seed: int, first: int = 0, count: int
) -> Iterator[tuple[int, Any, str]]:
    """Number, outcome and reason of each attempt."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = reader.place(originals, folder)
    whole = {path: path.read_bytes() for path in files}
    before = _tree(folder)
    expected = results_of(reader.read(originals, folder))
    for number in range(first, first + count):
        rng = random.Random(f"{seed} {reader.name} {number}")
        path = rng.choice(files)
        mutant = reader.mutate(rng, whole[path])
        path.write_bytes(mutant)
        outcome, why = attempt(lambda: reader.read(originals, folder), expected, has_digest=reader.has_digest)
        if outcome != "failed" and path.exists() and path.read_bytes() != mutant:
            outcome, why = "failed", "it changes the file that it reads"
        path.write_bytes(whole[path])
        if outcome != "failed" and _tree(folder) != before:
            outcome, why = "failed", "it leaves other files behind"
        yield number, outcome, why


def _tree(folder: Path) -> list[str]:
    return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


def _copied(source: Callable[[Originals], Path], name: str = "file") -> Callable[[Originals, Path], list[Path]]:
    def place(originals: Originals, folder: Path) -> list[Path]:
        return [Path(shutil.copy(source(originals), folder / name))]

    return place


def _weights(originals: Originals, folder: Path) -> object:
    path = folder / "file"
    tensors, info = read_weights(path)
    check_tensors(tensors, info, path)
    found = (tensors, info, read_info(path))
    return found if info.digest is not None else Unverified(found)


def _place_checkpoints(originals: Originals, folder: Path) -> list[Path]:
    """Two generations, of which the newer one is spoilt."""
    shutil.copytree(originals.run / "checkpoints", folder / "checkpoints")
    return sorted(max((folder / "checkpoints").iterdir()).iterdir())


def _checkpoint(originals: Originals, folder: Path) -> object:
    """Falling back to the older generation with a warning is a refusal."""
    warned: list[str] = []
    found = load_checkpoint(folder / "checkpoints", warn=warned.append)
    if warned:
        raise UserError(*warned)
    assert found is not None
    return found.step, found.state, found.tensors


def _packed(originals: Originals, folder: Path) -> object:
    return _facts_of_packed(folder / "file")


def _facts_of_packed(path: Path) -> object:
    found = open_packed(path)
    rows = np.arange(len(found.images))
    facts = (found.name, found.class_names, found.fingerprint, found.image_size, found.resize_mode, found.labels, found.roles)
    return facts, found.sums, found.order, found.pixel_digests, found.skipped, found.seen, found.ids(rows), found.take(rows)


def _place_journal(originals: Originals, folder: Path) -> list[Path]:
    """A packing that found a broken image: `--skip-bad` goes on from its images and its journal."""
    shutil.copytree(originals.images, folder / "images")
    (folder / "images" / "cat" / "0.png").write_bytes(b"broken")
    (folder / "begun").mkdir()
    with contextlib.suppress(UserError):
        pack(folder / "images", folder / "begun" / "packed", size=8)
    return [folder / "begun" / name for name in ("packed.part", "packed.part.rows")]


def _journal(originals: Originals, folder: Path) -> object:
    shutil.copytree(folder / "begun", folder / "tried")
    try:
        pack(folder / "images", folder / "tried" / "packed", size=8, skip_bad=True)
        return _facts_of_packed(folder / "tried" / "packed")
    finally:
        shutil.rmtree(folder / "tried")


def _predictions(originals: Originals, folder: Path) -> object:
    found = read_predictions(folder / "file")
    values = (found.ids, found.labels, found.logits, found.class_names, found.split, found.fingerprint, found.split_fingerprint)
    return values if found.is_verified else Unverified(values)


def _place_run(*names: str) -> Callable[[Originals, Path], list[Path]]:
    """A copy of the run without its checkpoints; of these of its files one is spoilt."""

    def place(originals: Originals, folder: Path) -> list[Path]:
        shutil.copytree(originals.run, folder / "run", ignore=shutil.ignore_patterns("checkpoints", "*.lock", "*.png"))
        return [folder / "run" / name for name in names]

    return place


def _row(originals: Originals, folder: Path) -> object:
    return run_row(folder / "run")


def _metrics(originals: Originals, folder: Path) -> object:
    return read_records(folder / "run")


def _config(originals: Originals, folder: Path) -> object:
    return read_settings(folder / "run" / "config.json"), read_config(folder / "run", recipe=None)


def _environment(originals: Originals, folder: Path) -> object:
    policy = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)
    env = read_environment(folder / "run" / "env.json")
    return env, differences(env, policy)


def _card(originals: Originals, folder: Path) -> object:
    from cctkit.hub.folder import write_hub_folder

    output = folder / "shared"
    try:
        write_hub_folder(folder / "run", output, onnx=None, notify=lambda _: None)
        return {path.name: path.read_bytes() for path in output.iterdir()}
    finally:
        shutil.rmtree(output, ignore_errors=True)


_SETTINGS = b"""recipe = "fast"
epochs = 3
batch_size = 64
lr = 1e-3

[augment]
mixup = 0.8
flip = true
auto_augment = "cifar10"

[data]
dataset = "photos"
image_size = "32x48"
val_fraction = 0.1
"""
_SEEDS = (
    b'{"schema_version": 1, "seeds": [0, 1, 5], "request": {"flags": {"epochs": 3, "lr": 0.001}, "file_values": {"flip": true},'
    b' "file_name": "a.toml", "recipe": "fast", "time": null}}'
)
_TIMM = (
    b'{"architecture": "vit_tiny_patch16_224", "num_classes": 10, "global_pool": "token", "model_args": {"num_heads": 3,'
    b' "act_layer": "gelu"}, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 224, 224]}}'
)


def _given(data: bytes, name: str = "file") -> Callable[[Originals, Path], list[Path]]:
    def place(originals: Originals, folder: Path) -> list[Path]:
        (folder / name).write_bytes(data)
        return [folder / name]

    return place


def _toml(originals: Originals, folder: Path) -> object:
    values, recipe = read_config(folder / "settings.toml", recipe=None)
    return TrainConfig.from_flat(values), recipe


def _probe(originals: Originals, folder: Path) -> object:
    """A cache that is spoilt is measured anew: nothing of it is believed but what can be."""
    with mock.patch.dict(os.environ, CCTKIT_CACHE=str(folder)):
        found = known_probe()
    if found is None:
        raise UserError("measured anew")
    return found


def _place_probe(originals: Originals, folder: Path) -> list[Path]:
    import json

    value = {"precision": "float32", "attention": "fused", "attention_with_dropout": "chunked"}
    return _given(json.dumps({probe_key(): value, "another|1": value}).encode(), "probe.json")(originals, folder)


def _timm(originals: Originals, folder: Path) -> object:
    from cctkit.config.model import ModelConfig

    named: dict[str, Any] = {"name": "vit_x", "family": "vit", "image_size": (224, 224), "num_classes": 10, "patch_size": 16}
    return read_timm_config(folder / "weights", ModelConfig(**named, num_layers=12, embed_dim=192, num_heads=3, mlp_ratio=4))


def _onnx(originals: Originals, folder: Path) -> object:
    found = read_onnx(folder / "file", threads=1)
    pixels = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).remainder(251).to(torch.uint8)
    values = (found.model.outputs(pixels), found.info, found.verification)
    return values if found.is_intact else Unverified(values)


def _archive(reader: str, *, checked: bool) -> Reader:
    """checked: by the published MD5, which refuses every mutant; without it the parser alone is tried."""
    import dataclasses

    def place(originals: Originals, folder: Path) -> list[Path]:
        shutil.copytree(originals.archives[reader][1], folder / "data")
        return sorted(path for path in (folder / "data").rglob("*") if path.is_file())

    def read(originals: Originals, folder: Path) -> object:
        row = originals.archives[reader][0]
        if not checked:
            files = tuple(dataclasses.replace(each, md5="") for each in row.archives[0].files)
            row = dataclasses.replace(row, archives=(dataclasses.replace(row.archives[0], files=files),))
        how = {"may_download": False, "progress": lambda *_: None, "notify": lambda _: None}
        source = archive_origin("small", row, folder / "data", **how).load(lambda *_: None)  # type: ignore[arg-type]
        return source.class_names, source.labels, source.roles, [source.read(i).pixels for i in range(len(source.labels))]

    guard = "MD5" if checked else "none: the parser alone, its MD5 not compared"
    return Reader(
        name=f"{reader} archive" + ("" if checked else ", parser"), guard=guard, mutate=_inside_gzip, place=place, read=read
    )


def _inside_gzip(rng: random.Random, data: bytes) -> bytes:
    """The compressed file, or what is in it: else its CRC-32 would refuse nearly all."""
    import gzip

    if rng.randrange(3) == 0:
        return mutate.of_bytes(rng, data)
    return gzip.compress(mutate.of_bytes(rng, gzip.decompress(data)), compresslevel=1, mtime=0)


def _picture(name: str) -> Reader:
    def read(originals: Originals, folder: Path) -> object:
        path = str(folder / "file")
        with strict_pillow():
            with contextlib.suppress(BadImageError):
                peek(path)
            with contextlib.suppress(BadImageError):
                read_header(path)
            return decode(path).pixels

    return Reader(
        name=f"image, {name}",
        guard="none in the format",
        mutate=mutate.of_bytes,
        place=_copied(lambda originals: originals.pictures[name]),
        read=read,
    )


def _foreign(name: str) -> Reader:
    ending = "safetensors" if name == "plain" else "pth"
    title = {"zip": "foreign .pth", "legacy": "foreign .pth before torch 1.6", "plain": "foreign .safetensors"}[name]
    return Reader(
        name=title,
        guard="none in the format",
        mutate=mutate.of_safetensors if name == "plain" else mutate.of_bytes,
        place=_copied(lambda originals: originals.foreign[name], f"file.{ending}"),
        read=lambda originals, folder: read_foreign(folder / f"file.{ending}"),
    )


def _readers() -> dict[str, Reader]:
    from cctkit.data.preprocess import formats

    def of(name: str, guard: str, how: Mutate, place: Any, read: Any) -> Reader:
        return Reader(name=name, guard=guard, mutate=how, place=place, read=read)

    listed = [
        of("weights", SHA, mutate.of_safetensors, _copied(lambda each: each.run / "weights.safetensors"), _weights),
        of("checkpoint", SHA, _of_checkpoint, _place_checkpoints, _checkpoint),
        of("packed images", f"{SHA}, CRC-32", mutate.of_safetensors, _copied(lambda each: each.packed), _packed),
        of("unfinished packing", "CRC-32", mutate.of_bytes, _place_journal, _journal),
        of("predictions", SHA, mutate.of_safetensors, _copied(lambda each: each.run / "predictions.safetensors"), _predictions),
        of(
            "digests of training images",
            SHA,
            mutate.of_safetensors,
            _copied(lambda each: each.run / "seen.safetensors"),
            lambda originals, folder: read_seen(folder / "file"),
        ),
        of("ONNX file", SHA, mutate.of_bytes, _copied(lambda each: each.onnx), _onnx),
        of("result.json", _JSON, mutate.of_json, _place_run("result.json"), _row),
        of("metrics.jsonl", _JSON, mutate.of_json_lines, _place_run("metrics.jsonl"), _metrics),
        of("config.json", _JSON, mutate.of_json, _place_run("config.json"), _config),
        of("env.json", _JSON, mutate.of_json, _place_run("env.json"), _environment),
        of("seeds.json", _JSON, mutate.of_json, _given(_SEEDS, "seeds.json"), lambda _, folder: read_seeds(folder)),
        of("settings, TOML", _JSON, mutate.of_lines, _given(_SETTINGS, "settings.toml"), _toml),
        of(
            "class names of import",
            _JSON,
            mutate.of_lines,
            _given(b"cat\ndog\n\xc3\xa9\n"),
            lambda _, folder: _class_names(str(folder / "file")),
        ),
        of("timm's config.json", _JSON, mutate.of_json, _given(_TIMM, "config.json"), _timm),
        of("cache of the probe", _JSON, mutate.of_json, _place_probe, _probe),
        of("card of a run", _JSON, mutate.of_json, _place_run("result.json", "env.json", "config.json"), _card),
        *(_archive(reader, checked=checked) for reader in ("cifar_python", "cifar_binary", "idx") for checked in (True, False)),
        *(_foreign(name) for name in ("zip", "legacy", "plain")),
        *(_picture(name) for name in formats()),
    ]
    return {reader.name: reader for reader in listed}


def _of_checkpoint(rng: random.Random, data: bytes) -> bytes:
    return mutate.of_json(rng, data) if data.startswith(b"{") else mutate.of_safetensors(rng, data)


READERS = _readers()
