"""The two sides of the benchmark: the same model, the same training, the same number of images."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.speed.plain import PlainSide, pipeline, plain_model
from cctkit.bench.images import epoch_images
from cctkit.bench.measure import Side
from cctkit.bench.task import MODELS, Task
from cctkit.bench.training import TaskTraining
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.models.build import build_model, set_attention_impl
from cctkit.models.dropout import Dropout, DropPath
from tests.probes import write_probe

TINY = Task(model="cct_2_3x2", device="cpu", batch_size=8, num_classes=7, image_size=(8, 8))


@pytest.mark.parametrize("name", [*MODELS, "vit_s_16"])
def test_the_plain_model_equals_ours_with_any_attention(name: str) -> None:
    task = Task(model=name, device="cpu", image_size=(16, 16), num_classes=10)
    plain, ours = plain_model(task.architecture()).eval(), build_model(task.architecture(), seed=0).eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = plain(images)
        for path in ATTENTION_IMPLS:
            set_attention_impl(ours, path)
            torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cct_2_3x2", "vit_s_16"])
def test_the_plain_model_drops_by_torch_and_torchvision_as_much_as_ours(name: str) -> None:
    from torchvision.ops import StochasticDepth

    architecture = Task(model=name, device="cpu", image_size=(16, 16)).architecture()

    def rates(model: nn.Module, kinds: type | tuple[type, ...]) -> list[float]:
        return [module.p for module in model.modules() if isinstance(module, kinds)]  # type: ignore[misc]

    plain, ours = plain_model(architecture), build_model(architecture)
    assert rates(plain, (Dropout, DropPath)) == []
    assert rates(plain, nn.Dropout) == rates(ours, Dropout)
    assert set(rates(plain, StochasticDepth)) == set(rates(ours, DropPath))  # of a ViT ours is shared by two branches
    assert {0.1} < set(rates(plain, nn.Dropout))
    assert max(rates(plain, StochasticDepth)) == pytest.approx(0.1)
    assert {module.attention_impl for module in plain.modules() if hasattr(module, "attention_impl")} == {"plain"}


@pytest.mark.parametrize("choice", [f"{precision},{path}" for precision in ("float32", "bf16") for path in ATTENTION_IMPLS])
@pytest.mark.parametrize("make", [PlainSide, TaskTraining])
def test_a_side_trains_on_as_many_batches_as_asked_for_over_several_epochs(
    make: type, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, choice)))
    for module in ("benchmarks.speed.plain", "cctkit.bench.training"):
        monkeypatch.setattr(f"{module}.epoch_images", lambda *_, **__: 16)
    side: Side = make(TINY)
    batches = list(side.batches(5))
    images = [batch[0] if isinstance(batch, tuple) else batch.images for batch in batches]
    assert [tuple(each.shape) for each in images] == [(8, 3, 8, 8)] * 5
    assert all(each.dtype == torch.float32 for each in images)
    assert len({each.sum().item() for each in images}) == 5
    model = side.state.model if isinstance(side, TaskTraining) else side.model  # type: ignore[attr-defined]
    weights = dict(model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    side.train(batches[0])
    # One number added to the scores of all tokens leaves their softmax as it is: this gradient is nothing but rounding, or 0.
    moving = weights.keys() - {"classifier.attention_pool.bias"}
    assert len(moving) == len(weights) - 1
    assert [name for name in sorted(moving) if torch.equal(before[name], weights[name])] == []
    after = [weight.detach().clone() for weight in model.parameters()]
    side.infer(2)
    assert model.training
    assert all(torch.equal(old, new) for old, new in zip(after, model.parameters(), strict=True))


def test_ours_is_measured_as_the_report_trains() -> None:
    config = TINY.config()
    assert (config.lr, config.weight_decay, config.decay_all, config.batch_size) == (5e-4, 0.03, True, 8)
    assert (config.model.attention_dropout, config.model.drop_path, config.label_smoothing) == (0.1, 0.1, 0.1)
    assert (config.augment.auto_augment, config.augment.crop, config.augment.flip) == ("cifar10", "pad", True)
    assert config.augment.aa_fill == pipeline((8, 8)).transforms[0].fill == 128


@pytest.mark.parametrize(
    ("size", "batch_size", "number"),
    [((32, 32), 128, 4096), ((32, 32), 100, 4000), ((224, 224), 128, 128), ((224, 224), 500, 500)],
)
def test_an_epoch_is_whole_batches_of_a_few_thousand_images(size: tuple[int, int], batch_size: int, number: int) -> None:
    assert epoch_images(size, batch_size=batch_size, device="cpu") == number
