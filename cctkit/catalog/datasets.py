"""The named data sets: addresses, checksums and statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One file to download.

    path: in the data directory.
    md5: as in torchvision (datasets/cifar.py, datasets/mnist.py) and on the authors' pages; no stronger digest is published.
    """

    path: str
    url: str
    md5: str
    megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A data set in the data directory as torchvision stores it: downloaded files, or the parts they unpack to.

    folder: of the unpacked parts.
    parts: MD5 of each part; "" if none is published and the format cannot contain code.
    """

    reader: Literal["cifar_python", "cifar_binary", "idx"]
    folder: str
    files: tuple[Remote, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def megabytes(self) -> float:
        """Size of the download."""
        return sum(file.megabytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """A named data set.

    page: of its authors.
    class_names: in label order, if the files do not contain them.
    mean: per channel, of pixel values in [0, 1]; None: computed from the training images.
    std: as `mean`.
    fingerprint: of the decoded images (data/packed/read.py); None: unknown.
    """

    title: str
    page: str
    archives: tuple[Archive, ...] = ()
    class_names: tuple[str, ...] = ()
    mean: Channels | None = None
    std: Channels | None = None
    fingerprint: str | None = None


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _toronto(name: str, md5: str, megabytes: float) -> tuple[Remote, ...]:
    return (Remote(path=name, url=_TORONTO + name, md5=md5, megabytes=megabytes),)


def _idx(folder: str, url: str, files: Mapping[str, tuple[str, float]]) -> Archive:
    """The four compressed files of an MNIST-like data set: images and labels of train, then of test."""
    remotes = (
        Remote(path=f"{folder}/{name}.gz", url=f"{url}{name}.gz", md5=md5, megabytes=megabytes)
        for name, (md5, megabytes) in files.items()
    )
    return Archive(reader="idx", folder=folder, files=tuple(remotes), parts=dict.fromkeys(files, ""))


DATASETS: Mapping[str, DatasetRow] = MappingProxyType(
    {
        "digits": DatasetRow(
            title="1,797 handwritten digits (UCI), embedded",
            page="https://doi.org/10.24432/C50P49",
            fingerprint="sha256:bc4c2d6721618af513c0adb275fc6944c00dcb570d4bea5b66b14c4d31766d3d",
        ),
        "cifar100": DatasetRow(
            title="CIFAR-100 (Krizhevsky 2009)",
            page=_TORONTO + "cifar.html",
            mean=(0.5071, 0.4867, 0.4408),  # the report's
            std=(0.2675, 0.2565, 0.2761),
            fingerprint="sha256:afbc7aa6ffb1a1a0dd27a9a88187e7520473b4b73bdd17578038472303fb150d",
            archives=(
                Archive(
                    reader="cifar_python",
                    folder="cifar-100-python",
                    files=_toronto("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169),
                    parts={
                        "train": "16019d7e3df5f24257cddd939b257f8d",
                        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                        "meta": "7973b15100ade9c7d40fb424638fde48",
                    },
                ),
                Archive(
                    reader="cifar_binary",
                    folder="cifar-100-binary",
                    files=_toronto("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 169),
                    parts={"train.bin": "", "test.bin": "", "fine_label_names.txt": ""},
                ),
            ),
        ),
        "cifar10": DatasetRow(
            title="CIFAR-10 (Krizhevsky 2009)",
            page=_TORONTO + "cifar.html",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            archives=(
                Archive(
                    reader="cifar_python",
                    folder="cifar-10-batches-py",
                    files=_toronto("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170),
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
                    files=_toronto("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170),
                    parts={f"data_batch_{i}.bin": "" for i in range(1, 6)} | {"test_batch.bin": "", "batches.meta.txt": ""},
                ),
            ),
        ),
        "mnist": DatasetRow(
            title="MNIST (LeCun, Cortes, Burges 1998)",
            page="https://yann.lecun.org/exdb/mnist/",
            class_names=tuple("0123456789"),
            archives=(
                _idx(
                    "MNIST/raw",
                    _MNIST,
                    {
                        "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9.9),
                        "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", 0.1),
                        "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", 1.7),
                        "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", 0.1),
                    },
                ),
            ),
        ),
        "fashion_mnist": DatasetRow(
            title="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)",
            page="https://github.com/zalandoresearch/fashion-mnist",
            class_names=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
            archives=(
                _idx(
                    "FashionMNIST/raw",
                    _FASHION,
                    {
                        "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26.4),
                        "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 0.1),
                        "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 4.4),
                        "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 0.1),
                    },
                ),
            ),
        ),
    }
)
NAME_OF_FINGERPRINT: Mapping[str, str] = MappingProxyType(
    {row.fingerprint: name for name, row in DATASETS.items() if row.fingerprint is not None}
)
