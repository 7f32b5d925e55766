"""One export for all tests of this folder, which takes seconds: a model for images of many kinds, and its ONNX file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.deployed import make_files
from cctkit.catalog.models import named_config
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.evaluation.load import LoadedModel, preprocess_of
from cctkit.export import export
from cctkit.export.export import ExportConfig, export_onnx
from cctkit.models.build import build_model
from cctkit.models.weights import Upsampling, WeightsInfo, save_weights
from cctkit.training.result import dataset_info

CLASSES = ("ant", "bee", "cat", "dog", "elk")
TEMPERATURE = 0.8
STORED, SIZE = (16, 20), (32, 40)  # (height, width): neither square nor that of any file


@dataclass(frozen=True, kw_only=True)
class Exported:
    """files: the paths of all image files; images: the folder of the data set that they are; proto: the exported graph."""

    files: tuple[str, ...]
    images: Path
    weights: Path
    onnx: Path
    printed: dict[str, Any]
    proto: Any


def photo(seed: int) -> Image.Image:
    """Smooth patches of colour with some noise: crops differ, and enlarging or turning one changes it."""
    draws = np.random.default_rng(seed)
    patches = Image.fromarray(draws.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((480, 360), Image.Resampling.BICUBIC)
    noise = draws.integers(-40, 40, (360, 480, 3))
    return Image.fromarray((np.asarray(patches) + noise).clip(0, 255).astype(np.uint8))


def write_weights(path: Path, images: Path, files: tuple[str, ...]) -> None:
    """An untrained model whose head gives logits of mean 0 and deviation 1 on these files, so that every class is found."""
    dataset = load_dataset(DataConfig(dataset=str(images), image_size=SIZE))
    info = WeightsInfo(
        model=named_config("cct_2_3x2", num_classes=len(CLASSES), image_size=SIZE, embed_dim=32),
        class_names=CLASSES,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        resize_mode="crop",
        dataset=dataset_info(dataset),
        recipe=None,
        metrics={"temperature": TEMPERATURE},
        upsampling=Upsampling(stored_size=STORED),
    )
    model, preprocess = build_model(info.model, seed=0).eval(), preprocess_of(info)
    pixels = torch.from_numpy(np.stack([preprocess.load(file) for file in files]))
    with torch.inference_mode():
        logits = model(preprocess.to_input(pixels, channels_last=False))
        tensors = model.state_dict()
        for name in ("classifier.fc.weight", "classifier.fc.bias"):
            tensor = tensors[name]
            if tensor.ndim == 1:
                tensor -= logits.mean(dim=0)
            tensor /= logits.std(dim=0).reshape(-1, *[1] * (tensor.ndim - 1))
    save_weights(path, tensors=tensors, info=info)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Exported:
    place = tmp_path_factory.mktemp("exported")
    make_files([photo(seed) for seed in range(3)], place / "made", number=96)
    for number, file in enumerate(sorted((place / "made").iterdir())):
        folder = place / "images" / ("train" if number < 16 else "test") / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    files = tuple(sorted(str(path) for path in (place / "images").rglob("*.*")))
    write_weights(place / "weights.safetensors", place / "images", files)
    protos = []

    def graph(loaded: LoadedModel) -> Any:
        protos.append(made(loaded))
        return protos[-1]

    made = export.onnx_graph
    config = ExportConfig(data=DataConfig(dataset=str(place / "images")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_graph", graph)
        printed = export_onnx(
            place / "weights.safetensors",
            place / "model.onnx",
            config,
            notify=lambda _: None,
            progress=lambda *_: None,
        )
    return Exported(
        files=files,
        images=place / "images",
        weights=place / "weights.safetensors",
        onnx=place / "model.onnx",
        printed=printed,
        proto=protos[0],
    )


@pytest.fixture
def graph_made(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Exports in this test use the graph of `exported`, changed by the function that this is called with."""

    def use(change: Callable[[Any], None] = lambda _: None) -> None:
        proto = type(exported.proto)()
        proto.CopyFrom(exported.proto)
        change(proto)
        monkeypatch.setattr(export, "onnx_graph", lambda _: proto)

    use()
    return use
