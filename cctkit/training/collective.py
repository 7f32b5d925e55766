"""What one process loads or chooses for all ranks: data set, device policy, checkpoint."""

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cctkit.config.settings import DataConfig
from cctkit.data.images import OpenedImages, open_images
from cctkit.data.packed.read import open_packed
from cctkit.data.source import Notify, Progress
from cctkit.engine.device import DevicePolicy, apply_policy
from cctkit.engine.distributed import DistContext
from cctkit.errors import UserError
from cctkit.text import safe_text
from cctkit.training.checkpoint import Checkpoint


def open_once(context: DistContext, config: DataConfig, *, progress: Progress, notify: Notify) -> OpenedImages:
    """`open_images` in one process per machine; then the others map the same packed file or list the same folder.

    Raises: UserError if the images differ between machines.
    """
    images = None
    with context.sync_errors():
        if context.local_rank == 0:
            images = open_images(config, progress=progress, notify=notify)
    found: Any = images and (images.packed_file and str(images.packed_file), images.place, images.store.fingerprint)
    everywhere = context.all_gather_object(found)
    with context.sync_errors():
        if images is None:
            path, place, _ = everywhere[context.rank - context.local_rank]
            if path:
                images = OpenedImages(store=open_packed(Path(path), is_cached=path != place), place=place)
            else:
                images = open_images(config, progress=progress)
        if images.store.fingerprint != everywhere[0][2]:
            raise UserError(f"the images of {images.name} differ from those of the first machine", safe_text(platform.node()))
    return images


def policy_for_all(context: DistContext, choose: Callable[[], DevicePolicy]) -> DevicePolicy:
    """The policy that rank 0 chooses, applied on every rank: a CPU is measured once, and all ranks compute alike.

    Raises: UserError if this machine does not have the device, or not one per rank.
    """
    policy = context.run_on_rank0(choose)
    context.device(lambda: policy.device)
    if not context.is_rank0:
        apply_policy(policy)
    return policy


def checkpoint_for_all(context: DistContext, read: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that rank 0 reads, sent to all ranks in parts, to save memory: other machines may not see its directory.

    Raises: UserError if `read` raises it.
    """
    found = None
    with context.sync_errors():
        if context.is_rank0:
            found = read()
    if context.world_size == 1:
        return found
    header = context.broadcast_object(found and replace(found, tensors={part: {} for part in found.tensors}))
    if header is None:
        return None
    tensors = {part: context.broadcast_object(found.tensors[part] if found else {}) for part in header.tensors}
    return replace(header, tensors=tensors)
