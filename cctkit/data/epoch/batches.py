"""The batches of one epoch of a training run: its plan drawn, its images augmented."""

from collections.abc import Iterator, Sequence

from cctkit.config.settings import TrainConfig
from cctkit.config.size import Size
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import CHUNK_IMAGES, Images, train_batches
from cctkit.data.epoch.plan import EpochPlan


def epoch_batches(
    split: Images,
    *,
    config: TrainConfig,
    epoch: int,
    num_images: int,
    stored_size: Size,
    mean: Sequence[float],
    std: Sequence[float],
    device: str,
    image_size: Size | None = None,
    read_size: Size | None = None,
    channels_last: bool = True,
    start_step: int = 0,
    workers: int = 0,
    chunk_images: int = CHUNK_IMAGES,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The batches of an epoch, from 0, of the first `num_images` images, from `start_step` on; see `train_batches`.

    stored_size: of the images when they are augmented; read_size: in the split, where it has a margin for the crop;
    image_size: the model's, where it may be larger.
    """
    plan = EpochPlan.draw(
        seed=config.seed,
        epoch=epoch,
        num_images=num_images,
        batch_size=config.batch_size,
        image_size=stored_size,
        config=config.augment,
        read_size=read_size,
    )
    return train_batches(
        split,
        plan=plan,
        config=config.augment,
        batch_size=config.batch_size,
        mean=mean,
        std=std,
        device=device,
        start_step=start_step,
        workers=workers,
        channels_last=channels_last,
        image_size=image_size,
        chunk_images=chunk_images,
        rank=rank,
        ranks=ranks,
    )
