"""Dropout and drop path draw what they should, from the generator they are given."""

from collections.abc import Callable

import pytest
import torch

from cctkit.models.dropout import Dropout, DropPath, add_branch, byte_scale, byte_threshold, random_bytes, use_generator


def test_drop_path_is_torchvisions_stochastic_depth_on_the_same_draws() -> None:
    from torchvision.ops import StochasticDepth

    x = torch.randn(64, 5, 7)
    theirs, ours = StochasticDepth(0.3, "row").train(), DropPath(0.3).train()
    torch.manual_seed(3)
    expected = theirs(x)
    torch.manual_seed(3)
    assert torch.equal(ours(x), expected)
    assert torch.equal(ours.eval()(x), x)


def test_drop_path_has_stochastic_depths_gradient_and_drops_whole_samples() -> None:
    from torchvision.ops import stochastic_depth

    x = torch.randn(50, 3, 2, requires_grad=True, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    expected = torch.autograd.grad(stochastic_depth(x, 0.4, "row").square().sum(), x)[0]
    layer = DropPath(0.4).train()
    use_generator(layer, torch.Generator().manual_seed(5))
    out = layer(x)
    assert torch.equal(torch.autograd.grad(out.square().sum(), x)[0], expected)
    dropped = (out == 0).flatten(1)
    assert torch.equal(dropped.all(dim=1), dropped.any(dim=1))
    assert 0 < dropped.all(dim=1).sum().item() < 50


@pytest.mark.parametrize(
    ("p", "threshold"), [(0.0, 0), (0.001, 1), (0.1, 26), (0.5, 128), (0.9, 230), (0.998, 255), (0.9981, 255), (0.999999, 255)]
)
def test_the_byte_threshold_is_the_probability_in_256ths(p: float, threshold: int) -> None:
    assert byte_threshold(p) == threshold
    assert byte_scale(p) == 256 / (256 - threshold)


def test_every_byte_of_a_draw_is_uniform() -> None:
    values = random_bytes((80_000,), torch.Generator().manual_seed(0)).view(-1, 8).double()
    means = values.mean(dim=0)
    assert (means - 127.5).abs().max().item() < 5 * 73.9 / 10_000**0.5  # five standard errors


def test_dropout_preserves_the_expectation_and_drops_the_stated_fraction() -> None:
    layer = Dropout(0.1).train()
    use_generator(layer, torch.Generator().manual_seed(0))
    out = layer(torch.ones(1000, 1000))
    assert (out == 0).double().mean().item() == pytest.approx(26 / 256, abs=0.002)
    assert out.mean().item() == pytest.approx(1.0, abs=0.002)
    assert out.unique().tolist() == pytest.approx([0.0, 256 / 230])


def test_dropout_of_almost_all_keeps_a_few_and_stays_finite() -> None:
    layer = Dropout(0.9999).train()
    use_generator(layer, torch.Generator().manual_seed(0))
    out = layer(torch.ones(1000, 256))
    assert (out == 0).double().mean().item() == pytest.approx(255 / 256, abs=0.001)
    assert out.unique().tolist() == [0.0, 256.0]


def scaled(dtype: torch.dtype, run: Callable[[torch.Tensor], torch.Tensor]) -> list[float]:
    """By how much `run` and its gradient scale what they keep, to four digits, of numbers that round up as often as down."""
    x = torch.randn(400, 1000, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    out = run(x)
    (grad,) = torch.autograd.grad(out, x, x.detach())
    kept = out != 0
    weights = x.detach().double()[kept]
    return [((part.double()[kept] * weights).sum() / weights.square().sum()).item() for part in (out.detach(), grad)]


def beside(x: torch.Tensor, layer: DropPath) -> torch.Tensor:
    """x as `add_branch` adds it, scaled, to zeros."""
    both = torch.cat([x, torch.zeros_like(x)], dim=1)
    return add_branch(both, lambda x: x.roll(1000, dims=1), layer)[:, 1000:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_scale_of_kept_elements_is_exact_in_every_dtype(dtype: torch.dtype) -> None:
    """Rounded to bf16 it was 1.1094 in place of 1.1130 for dropout of 26/256, an expectation of 0.9967."""

    def branch(skips: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        layer = DropPath(0.1).train()
        layer.skips, layer.generator = skips, torch.Generator().manual_seed(0)
        return lambda x: beside(x, layer)

    dropout, path = Dropout(0.1).train(), DropPath(0.1).train()
    assert scaled(dtype, dropout) == pytest.approx([256 / 230] * 2, rel=2e-4)
    assert scaled(dtype, path) == pytest.approx([1 / 0.9] * 2, rel=2e-4)
    assert scaled(dtype, branch(False)) == pytest.approx([1 / 0.9] * 2, rel=2e-4)
    assert scaled(dtype, branch(True)) == pytest.approx([1 / 0.9] * 2, rel=2e-4)


def test_the_scale_is_exact_if_all_samples_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DropPath(0.1).train()
    layer.skips = True
    monkeypatch.setattr(layer, "kept", lambda x: torch.arange(len(x)))
    expected = pytest.approx([1 / 0.9] * 2, rel=2e-4)
    assert scaled(torch.bfloat16, lambda x: beside(x, layer)) == expected


def test_the_same_generator_state_gives_the_same_mask() -> None:
    layer = Dropout(0.5).train()
    generator = torch.Generator()
    use_generator(layer, generator)
    x = torch.ones(4, 33)
    generator.manual_seed(7)
    first = layer(x)
    generator.manual_seed(7)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropouts_gradient_is_its_mask(p: float) -> None:
    layer = Dropout(p).train()
    use_generator(layer, torch.Generator().manual_seed(1))
    x = torch.randn(40, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = layer(x)
    grad = torch.autograd.grad(out.sum(), x)[0]
    torch.testing.assert_close(grad, (out / x).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dropout_keeps_the_dtype_and_accepts_any_size(dtype: torch.dtype) -> None:
    out = Dropout(0.5).train()(torch.ones(3, 7, dtype=dtype))
    assert out.dtype == dtype
    assert out.shape == (3, 7)


def test_a_given_generator_does_not_change_the_default_one() -> None:
    layers = torch.nn.Sequential(Dropout(0.5), DropPath(0.5)).train()
    use_generator(layers, torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    layers(torch.ones(8, 8))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_and_zero_drop_nothing() -> None:
    x = torch.randn(3, 4)
    assert layer_is_identity(Dropout(0.5).eval(), x)
    assert layer_is_identity(Dropout(0.0).train(), x)
    assert layer_is_identity(DropPath(0.5).eval(), x)


def layer_is_identity(layer: torch.nn.Module, x: torch.Tensor) -> bool:
    return layer(x) is x
