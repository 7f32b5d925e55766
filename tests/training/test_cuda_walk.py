"""The CUDA path, walked with fake tensors where there is no such device: a step never waits for it.

What cannot be faked is untested here: autocast, the GradScaler, pinned memory, CUDA's generators, and the kernels
themselves. The backward pass runs on the meta device, as autograd needs a real one for CUDA.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cctkit.catalog.models import named_config
from cctkit.config.settings import AugmentConfig, TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.epoch.policies import operations_of
from cctkit.data.packed.read import Packed
from cctkit.data.preprocess import Preprocess
from cctkit.data.splits import Split
from cctkit.engine.device import DevicePolicy
from cctkit.evaluation.evaluate import logits_of
from cctkit.models.build import build_model, set_attention_impl
from cctkit.training import step as step_module
from cctkit.training.optim import make_optimizers
from cctkit.training.step import TrainState, new_state, train_step

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # torch's own deepcopy does

POLICY = DevicePolicy(device="cuda", precision="float32", attention="fused", attention_in_evaluation="fused", threads=1)
PREPROCESS = Preprocess(stored_size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
UPSAMPLED = replace(PREPROCESS, image_size=(64, 64))

# What gives a value or a size that only the device knows: the host waits for it.
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
# What a value of the host goes through on its way: it is made, or drawn where images are erased, and copied.
MAKES = {"lift_fresh", "detach", "detach_", "view", "randn"}
COPIES = {"_to_copy", "copy_", "to"}
FEW = 16  # numbers: what torchvision makes for a call, by a copy that waits, once for a group of images


class Stray(AssertionError):
    """Something is not where it should be."""


class OnDevice(TorchDispatchMode):
    """Fails where the host computes, or would wait for `device`; its tensors may only be sent there.

    few_may_wait: whether a copy to the device that waits for it is let through, where it is of a few numbers.
    """

    def __init__(self, device: str, *, few_may_wait: bool = False) -> None:
        super().__init__()
        self.device, self.few_may_wait = device, few_may_wait

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in WAITS:
            raise Stray(f"{name} waits for the device")
        try:
            out = func(*args, **kwargs)
        except DynamicOutputShapeException as error:
            raise Stray(f"{name} waits for the device") from error
        came = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        went = {leaf.device.type for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        if name == "device" or (name in MAKES and all(tensor.device.type == "cpu" for tensor in came)):
            return out
        if name in COPIES and went == {self.device} and came[-1].device.type == "cpu":
            if not kwargs.get("non_blocking") and not (self.few_may_wait and came[-1].numel() <= FEW):
                raise Stray(f"{name} to the device waits for it")
            return out
        # A host tensor without dimensions is a number: it goes with the call of the kernel.
        if "cpu" in went or any(tensor.device.type == "cpu" and tensor.ndim for tensor in came):
            raise Stray(f"{name} has a tensor of the host")
        return out


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tensors are fake, so that CUDA's can be made."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # it looks at the values
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def state_on(device: str, config: TrainConfig) -> TrainState:
    architecture = named_config("cct_2_3x2", num_classes=5, attention_dropout=0.1, drop_path=0.1, dropout=0.1)
    with torch.device(device):
        model = build_model(architecture).train()
        average = AveragedModel(model, use_buffers=True) if config.ema else None
    set_attention_impl(model, "fused")
    return new_state(model, make_optimizers(model, config), ema=average, policy=replace(POLICY, device=device))


@dataclass
class HostImages:
    """Images that are read on the host, which is no tensor's affair."""

    labels: Any

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Any) -> Tensor:
        return torch.from_numpy(np.zeros((len(positions), 3, 32, 32), dtype=np.uint8))


def split_on(device: str, number: int) -> Any:
    labels = np.arange(number) % 5
    if device == "cpu":
        return HostImages(labels)
    images = torch.empty(number, 3, 32, 32, dtype=torch.uint8, device=device)
    store: Any = SimpleNamespace(images=images, image_size=(32, 32), take=lambda rows: Packed.take(store, rows))
    return Split(store=store, index=np.arange(number)[::-1].copy(), labels=labels)


def batch_on(device: str, number: int = 12) -> Batch:
    images = torch.empty(number, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels, weight = torch.zeros(number, dtype=torch.int64, device=device), torch.empty(number, device=device)
    return Batch(images=images, labels=labels, partner_labels=labels, lam=weight)


def give_gradients(monkeypatch: pytest.MonkeyPatch, state: TrainState) -> None:
    """In place of the backward pass, which autograd cannot do on a device that is not there."""

    def backward(_loss: Tensor) -> None:
        for weight in state.model.parameters():
            weight.grad = torch.empty_like(weight)

    monkeypatch.setattr(Tensor, "backward", backward)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_stays_on_the_device_and_never_waits_for_it(
    optimizer: str, faked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig.from_flat({"optimizer": optimizer, "clip_grad": 1.0, "accumulate": 2, "ema": 0.9})
    state, batch = state_on("cuda", config), batch_on("cuda")
    give_gradients(monkeypatch, state)
    with OnDevice("cuda"):
        for _ in range(2):
            train_step(state, batch, config=config, policy=POLICY, lr_factor=0.5)
    assert state.step == 2
    assert state.ema is not None
    assert {tensor.device.type for tensor in state.ema.state_dict().values()} == {"cuda"}


def test_the_backward_pass_stays_on_the_meta_device() -> None:
    config = TrainConfig.from_flat({"accumulate": 2})
    policy = replace(POLICY, device="meta")
    architecture = named_config("cct_2_3x2", num_classes=5, attention_dropout=0.1, drop_path=0.1)
    for attention in ("fused", "plain"):
        with torch.device("meta"):
            model = replace(policy, attention=attention).prepare(build_model(architecture)).train()
        state = new_state(model, [], ema=None, policy=policy)
        with OnDevice("meta"):
            step_module._backward(state, batch_on("meta"), slice(0, 6), config=config, policy=policy, class_weights=None)
        assert all(weight.grad is not None and weight.grad.device.type == "meta" for weight in model.parameters())


CUTS = {"auto_augment": "none", "mixup": 0.8, "cutmix": 1.0, "random_erase": 0.25}
WAYS = [AugmentConfig(**CUTS), AugmentConfig(), AugmentConfig(auto_augment="rand", crop="resized")]


@pytest.mark.parametrize("images_on", ["cuda", "cpu"])
@pytest.mark.parametrize("config", WAYS, ids=["cuts", "auto", "rand"])
def test_the_batches_of_an_epoch_are_made_on_the_device(
    config: AugmentConfig, images_on: str, request: pytest.FixtureRequest
) -> None:
    """From images that are there already, and from those on the host, which are sent."""
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=96, batch_size=32, image_size=(32, 32), config=config)
    for slot in (0, 1) if config.auto_augment != "none" else ():
        operations_of(plan, slot, (32, 32))  # the groups are made before, as numbers of the host
    request.getfixturevalue("faked")
    split = split_on(images_on, 96)
    with OnDevice("cuda", few_may_wait=config.auto_augment != "none" or config.crop == "resized"):
        batches = list(train_batches(split, plan=plan, preprocess=UPSAMPLED, device="cuda"))
    assert [batch.images.device.type for batch in batches] == ["cuda"] * 3
    assert batches[0].images.shape == (32, 3, 64, 64)
    assert [batch.labels.device.type for batch in batches] == ["cuda"] * 3


@pytest.mark.parametrize("images_on", ["cuda", "cpu"])
def test_an_evaluation_waits_for_the_device_only_when_it_is_done(images_on: str, faked: None) -> None:
    state = state_on("cuda", TrainConfig())
    split = split_on(images_on, 600)
    with OnDevice("cuda"):
        logits = logits_of(state.model, split, policy=POLICY, preprocess=PREPROCESS)
    assert (logits.shape, logits.device.type) == ((600, 5), "cuda")


def read_the_loss(logits: Tensor) -> None:
    logits.max().item()


def copy_to_the_host(logits: Tensor) -> None:
    logits.cpu()


def branch_on_a_value(logits: Tensor) -> None:
    if logits.isnan().any():
        raise ValueError


def select_by_a_mask(logits: Tensor) -> None:
    logits[logits > 0]


def send_and_wait(logits: Tensor) -> None:
    torch.tensor([1.0, 2.0]).to(logits.device)


def compute_on_the_host(logits: Tensor) -> None:
    torch.arange(len(logits))


WRONGS = [read_the_loss, copy_to_the_host, branch_on_a_value, select_by_a_mask, send_and_wait, compute_on_the_host]


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: wrong.__name__)
def test_the_walk_fails_where_a_step_waits_or_strays(
    wrong: Callable[[Tensor], None], faked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig()
    state, batch = state_on("cuda", config), batch_on("cuda")
    give_gradients(monkeypatch, state)
    real = step_module.losses

    def spoilt(logits: Tensor, *rest: Any, **options: Any) -> Any:
        wrong(logits)
        return real(logits, *rest, **options)

    monkeypatch.setattr(step_module, "losses", spoilt)
    with pytest.raises(Stray), OnDevice("cuda"):
        train_step(state, batch, config=config, policy=POLICY, lr_factor=0.5)


def test_the_walk_fails_where_an_evaluation_reads_a_batch_back(faked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_on("cuda", TrainConfig())
    state.model.register_forward_hook(lambda _model, _images, logits: logits.cpu())
    with pytest.raises(Stray, match="host"), OnDevice("cuda"):
        logits_of(state.model, split_on("cuda", 300), policy=POLICY, preprocess=PREPROCESS)
