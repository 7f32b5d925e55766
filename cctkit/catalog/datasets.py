"""The named data sets: where they come from, what they must hash to, their statistics, and how they are recognised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One form in which a data set is found: a file to download, or its unpacked folder, and the MD5 of each part.

    The MD5 are those that torchvision (datasets/cifar.py) and the authors' page print; no stronger
    digest is published.
    """

    reader: Literal["cifar_python", "cifar_binary"]
    folder: str
    file: str
    url: str
    md5: str
    megabytes: int
    parts: Mapping[str, str] = field(default_factory=dict)
    """Part -> MD5, "" where none is published and the format cannot carry code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """A named data set. mean, std: of pixel values in 0 to 1, None: computed from the training images."""

    title: str
    num_classes: int
    archives: tuple[Archive, ...] = ()
    mean: Channels | None = None
    std: Channels | None = None
    fingerprint: str | None = None


_TORONTO = "https://www.cs.toronto.edu/~kriz/"

DATASETS: Mapping[str, DatasetRow] = MappingProxyType(
    {
        "digits": DatasetRow(title="1,797 handwritten digits (UCI), embedded", num_classes=10),
        "cifar100": DatasetRow(
            title="CIFAR-100 (Krizhevsky 2009)",
            num_classes=100,
            mean=(0.5071, 0.4867, 0.4408),  # the report's
            std=(0.2675, 0.2565, 0.2761),
            fingerprint="sha256:afbc7aa6ffb1a1a0dd27a9a88187e7520473b4b73bdd17578038472303fb150d",
            archives=(
                Archive(
                    reader="cifar_python",
                    folder="cifar-100-python",
                    file="cifar-100-python.tar.gz",
                    url=_TORONTO + "cifar-100-python.tar.gz",
                    md5="eb9058c3a382ffc7106e4002c42a8d85",
                    megabytes=169,
                    parts={
                        "train": "16019d7e3df5f24257cddd939b257f8d",
                        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                        "meta": "7973b15100ade9c7d40fb424638fde48",
                    },
                ),
                Archive(
                    reader="cifar_binary",
                    folder="cifar-100-binary",
                    file="cifar-100-binary.tar.gz",
                    url=_TORONTO + "cifar-100-binary.tar.gz",
                    md5="03b5dce01913d631647c71ecec9e9cb8",
                    megabytes=169,
                    parts={"train.bin": "", "test.bin": "", "fine_label_names.txt": ""},
                ),
            ),
        ),
        "cifar10": DatasetRow(
            title="CIFAR-10 (Krizhevsky 2009)",
            num_classes=10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            archives=(
                Archive(
                    reader="cifar_python",
                    folder="cifar-10-batches-py",
                    file="cifar-10-python.tar.gz",
                    url=_TORONTO + "cifar-10-python.tar.gz",
                    md5="c58f30108f718f92721af3b95e74349a",
                    megabytes=170,
                    parts={
                        "data_batch_1": "c99cafc152244af753f735de768cd75f",
                        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                        "data_batch_4": "634d18415352ddfa80567beed471001a",
                        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                        "test_batch": "40351d587109b95175f43aff81a1287e",
                        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
                    },
                ),
                Archive(
                    reader="cifar_binary",
                    folder="cifar-10-batches-bin",
                    file="cifar-10-binary.tar.gz",
                    url=_TORONTO + "cifar-10-binary.tar.gz",
                    md5="c32a1d4ab5d03f1284b67883e8d87530",
                    megabytes=170,
                    parts={f"data_batch_{i}.bin": "" for i in range(1, 6)} | {"test_batch.bin": "", "batches.meta.txt": ""},
                ),
            ),
        ),
    }
)
NAME_OF_FINGERPRINT: Mapping[str, str] = MappingProxyType(
    {row.fingerprint: name for name, row in DATASETS.items() if row.fingerprint is not None}
)
