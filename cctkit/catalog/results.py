"""Published accuracies and sizes with their sources. Scores are computed, never stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["report", "final result", "published"]

DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "flowers102": "Flowers-102", "imagenet1k": "ImageNet-1k"}
FROM_SCRATCH = "from scratch"
_IMAGENET_21K = "pretrained on ImageNet-21k"
_IMAGENET_1K = "pretrained on ImageNet-1k"

_REPORT = "the report, score table"
_SHI = "SHI-Labs/Compact-Transformers, examples/README.md"
_SHI_MAIN = "SHI-Labs/Compact-Transformers, README.md"
_GOOGLE = "google-research/vision_transformer, README.md"
_BIG_VISION = "google-research/big_vision, transfer config"
_CONDENSENET = "Huang et al. 2018, CondenseNet, and its repository"
_DENSENET = "Huang et al. 2017, DenseNet, and its repository"
_ZENNET = "Lin et al. 2021, Zen-NAS: idstcv/ZenNAS, README.md"

NOTES: Mapping[str, str] = MappingProxyType(
    {
        "ten_classes": "the published size is that of 10 classes, for CIFAR-10; 100 classes take 90 outputs more",
        "no_embedding": "the published size leaves the positional embedding out (65,536 weights); the other rows count theirs",
        "cvt": "the report writes CvT; this is CVT, the compact vision transformer, not the convolutional CvT of Wu et al.",
        "best_of_runs": "the best of several runs, as the authors say (issue 3 of their repository)",
        "vit": "the report gives no patch size, image size or paper for its ViT rows, so their true count is not known",
        "final": "3,191,397 is torchsummary's count, which does not see the positional embedding; the true count is 3,256,933",
        "sine": "published as _sine, but built with a learnable embedding: the factory drops the argument",
        "rounded": "the size is the ViT paper's, rounded (Dosovitskiy et al. 2021, table 1)",
        "zennet": "trained for 1,440 epochs; the size is published rounded, so the score is rough",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedResult:
    """One published result.

    params_millions: as published.
    name: the model in our catalog, if it is there; gives the true counts.
    """

    model: str
    family: str
    training: str
    top1_percent: float
    params_millions: float | None
    source: str
    dataset: str = "cifar100"
    kind: Kind = "published"
    name: str | None = None
    epochs: int | None = None
    notes: tuple[str, ...] = ()


def _report_vit(model: str, top1_percent: float, params_millions: float) -> PublishedResult:
    return PublishedResult(
        model=model,
        family="vit",
        training=_IMAGENET_21K,
        top1_percent=top1_percent,
        params_millions=params_millions,
        source=_REPORT,
        kind="report",
        notes=("vit",),
    )


def _report_compact(model: str, name: str, top1_percent: float, params_millions: float) -> PublishedResult:
    notes = ["ten_classes", "best_of_runs"]
    notes += ["no_embedding"] if name == "cct_6_3x1" else []
    notes += ["cvt"] if name.startswith("cvt") else []
    return PublishedResult(
        model=model,
        family=name.partition("_")[0],
        training=FROM_SCRATCH,
        top1_percent=top1_percent,
        params_millions=params_millions,
        source=f"{_REPORT}; {_SHI}",
        kind="report",
        name=name,
        epochs=200,
        notes=tuple(notes),
    )


_IN_REPORT = (
    _report_vit("ViT-S", 89.7, 22.2),
    _report_vit("ViT-B", 91.67, 86),
    _report_vit("ViT-B", 91.97, 86),
    _report_vit("ViT-L", 93.44, 307),
    _report_compact("CvT-7/4", "cvt_7_4", 73.01, 3.717),
    _report_compact("CvT-6/4", "cvt_6_4", 72.25, 3.19),
    _report_compact("CCT 4/3x2", "cct_4_3x2", 70.46, 0.482),
    _report_compact("CCT 6/3x1", "cct_6_3x1", 76.71, 3.168),
    _report_compact("CCT 6/3x2", "cct_6_3x2", 74.47, 3.327),
    _report_compact("CCT-7/3x1", "cct_7_3x1", 77.05, 3.76),
    _report_compact("CCT-7/3x2", "cct_7_3x2", 74.92, 3.853),
    PublishedResult(
        model="CCT 6/3x1",
        family="cct",
        training=FROM_SCRATCH,
        top1_percent=75.145,
        params_millions=3.191397,
        source="the report, final result",
        kind="final result",
        name="cct_6_3x1",
        epochs=200,
        notes=("final",),
    ),
)

# name, epochs, CIFAR-10 top-1, CIFAR-100 top-1, published size in millions
_COMPACT = (
    ("vit_lite_6_4", 200, 90.94, 69.20, 3.191),
    ("vit_lite_7_4", 200, 91.38, 69.75, 3.717),
    ("cvt_6_4", 200, 92.58, 72.25, 3.190),
    ("cvt_7_4", 200, 92.43, 73.01, 3.717),
    ("cct_2_3x2", 200, 89.17, 66.90, 0.284),
    ("cct_4_3x2", 200, 91.45, 70.46, 0.482),
    ("cct_6_3x2", 200, 93.56, 74.47, 3.327),
    ("cct_7_3x2", 200, 93.83, 74.92, 3.853),
    ("cct_6_3x1", 200, 94.81, 76.71, 3.168),
    ("cct_6_3x1", 500, 95.29, 77.31, 3.168),
    ("cct_7_3x1", 200, 94.78, 77.05, 3.760),
    ("cct_7_3x1", 300, 96.53, 80.92, 3.760),
    ("cct_7_3x1_sine", 1500, 97.48, 82.72, 3.760),
    ("cct_7_3x1_sine", 5000, 98.00, 82.87, 3.760),
)


def _compact(row: tuple[str, int, float, float, float], dataset: str) -> PublishedResult:
    name, epochs, cifar10, cifar100, params_millions = row
    notes = ["best_of_runs"]
    notes += ["ten_classes"] if dataset == "cifar100" else []
    notes += ["no_embedding"] if name == "cct_6_3x1" else []
    notes += ["sine"] if name.endswith("_sine") else []
    return PublishedResult(
        model=name,
        family="vit_lite" if name.startswith("vit_lite") else name.partition("_")[0],
        training=FROM_SCRATCH,
        top1_percent=cifar100 if dataset == "cifar100" else cifar10,
        params_millions=params_millions,
        source=_SHI,
        dataset=dataset,
        name=name.removesuffix("_sine"),
        epochs=epochs,
        notes=tuple(notes),
    )


def _other(
    model: str,
    family: str,
    top1_percent: float,
    params_millions: float | None,
    source: str,
    *,
    training: str = FROM_SCRATCH,
    dataset: str = "cifar100",
    name: str | None = None,
    epochs: int | None = None,
    notes: tuple[str, ...] = (),
) -> PublishedResult:
    return PublishedResult(
        model=model,
        family=family,
        training=training,
        top1_percent=top1_percent,
        params_millions=params_millions,
        source=source,
        dataset=dataset,
        name=name,
        epochs=epochs,
        notes=notes,
    )


_LARGE = (
    ("cct_7_7x2_224", "flowers102", FROM_SCRATCH, None, 97.19, None),
    ("cct_14_7x2_384", "flowers102", _IMAGENET_1K, None, 99.76, None),
    ("cct_14_7x2_224", "imagenet1k", FROM_SCRATCH, 310, 80.67, 22.36),
    ("cct_14_7x2_384", "imagenet1k", FROM_SCRATCH, 340, 82.71, 22.51),
)
_REPORTED_RUNS = {(row.name, row.epochs) for row in _IN_REPORT if row.kind == "report"}
_BESIDE = (
    *(_compact(row, "cifar100") for row in _COMPACT if row[:2] not in _REPORTED_RUNS),
    _other("CondenseNet-86", "condensenet", 76.36, 0.52, _CONDENSENET),
    _other("DenseNet-BC-100-12", "densenet", 77.73, 0.8, _DENSENET),
    _other("Wide-DenseNet-BC 40-48", "densenet", 79.71, 2.7, _DENSENET),
    _other("CondenseNet-182", "condensenet", 81.53, 4.2, _CONDENSENET),
    *(
        _other(model, "zennet", top1, millions, _ZENNET, notes=("zennet",))
        for model, top1, millions in (("ZenNet-0.5M", 79.9, 0.5), ("ZenNet-1M", 80.1, 1.0), ("ZenNet-2M", 84.4, 2.0))
    ),
    _other("ViT-B/16", "vit", 92.64, 86, _GOOGLE, training=_IMAGENET_21K, notes=("rounded",)),
    _other("ViT-B/32", "vit", 92.08, 86, _GOOGLE, training=_IMAGENET_21K, notes=("rounded",)),
    _other("ViT-L/16", "vit", 93.04, 307, _GOOGLE, training=_IMAGENET_21K, notes=("rounded",)),
    _other("ViT-L/32", "vit", 93.06, 307, _GOOGLE, training=_IMAGENET_21K, notes=("rounded",)),
    _other("ViT-B/32, AugReg", "vit", 91.35, 86, _BIG_VISION, training=_IMAGENET_21K, notes=("rounded",)),
    *(_compact(row, "cifar10") for row in _COMPACT),
    *(
        _other(name, "cct", top1, millions, _SHI_MAIN, training=training, dataset=dataset, name=name, epochs=epochs)
        for name, dataset, training, epochs, top1, millions in _LARGE
    ),
)

RESULTS: tuple[PublishedResult, ...] = (*_IN_REPORT, *_BESIDE)
