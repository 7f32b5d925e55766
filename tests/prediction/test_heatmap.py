"""Heat maps: the weights of the sequence pooling, and what is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cctkit.catalog.models import named_config
from cctkit.data.preprocess import Preprocess
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.classifier import CompactTransformer
from cctkit.prediction.heatmap import HeatmapFolder, check_pools, overlay, pooling_weights
from cctkit.prediction.inputs import ImageFile
from tests.prediction.weights import info_of


@pytest.mark.parametrize(("name", "tokens"), [("cct_2_3x2", 16), ("cvt_2_4", 16), ("tct_3_2", 16)])
def test_the_weights_are_those_with_which_the_tokens_are_pooled_and_the_logits_stay(name: str, tokens: int) -> None:
    config = named_config(name, num_classes=3, image_size=(16, 16))
    model = build_model(config, seed=0).eval()
    assert isinstance(model, CompactTransformer)
    images, states = torch.randn(2, 3, 16, 16), []
    model.classifier.norm.register_forward_hook(lambda _module, _inputs, x: states.append(x))
    with torch.inference_mode():
        expected = model(images)
        with pooling_weights(model) as weights:
            assert torch.equal(model(images), expected)
        model(images)  # after which nothing is added any more
        assert [each.shape for each in weights] == [(tokens,)] * 2
        pooled = torch.stack([torch.from_numpy(each) @ x for each, x in zip(weights, states[0], strict=True)])
        torch.testing.assert_close(model.classifier.fc(pooled), expected)


def test_a_model_that_is_not_of_torch_has_no_heat_map() -> None:
    with pytest.raises(UserError, match="an ONNX file gives logits only, no heat maps"):
        check_pools(torch.nn.Identity(), info_of("cct_2_3x2"))


SQUARE = Preprocess(stored_size=(32, 32))


def test_what_has_weight_is_coloured_the_rest_of_the_crop_stays_and_what_is_cut_off_is_darkened() -> None:
    pixels = np.full((300, 400, 3), 90, dtype=np.uint8)  # its central 300 x 300 are seen
    weights = np.zeros((4, 4), dtype=np.float32)
    weights[0, 3] = 1.0
    drawn = np.asarray(overlay(pixels, weights, SQUARE))
    assert drawn.shape == (300, 400, 3)
    assert drawn[:, :50].max() == drawn[:, 350:].max() == 30
    assert (drawn[200:, 60:340] == 90).all()
    red, green, blue = drawn[20, 330].tolist()
    assert red > 100
    assert max(green, blue) < 40


def test_equal_weights_have_one_colour_whatever_the_picture() -> None:
    weights = np.full((8, 8), 1 / 64, dtype=np.float32)
    drawn = np.asarray(overlay(np.zeros((300, 300, 3), dtype=np.uint8), weights, SQUARE))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (256, 256)),
        ((16, 10), (256, 160)),
        ((2000, 1000), (512, 256)),
        ((300, 400), (300, 400)),
        ((1, 10_000), (1, 512)),
    ],
)
def test_small_images_are_enlarged_and_large_ones_reduced(size: tuple[int, int], expected: tuple[int, int]) -> None:
    weights = np.full((2, 2), 0.25, dtype=np.float32)
    for mode in ("crop", "squash"):
        drawn = overlay(np.zeros((*size, 3), dtype=np.uint8), weights, Preprocess(stored_size=(32, 32), resize_mode=mode))  # type: ignore[arg-type]
        assert (drawn.height, drawn.width) == expected


def test_pictures_lie_as_the_images_do_and_none_overwrites_another(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    info = info_of("cct_2_3x2")
    folder = HeatmapFolder(tmp_path / "maps", info=info, preprocess=SQUARE)
    weights = np.full(64, 1 / 64, dtype=np.float32)
    names = ["a/1.jpg", "a/1.png", "a/1.png", "1.png", "../../1.png", "/abs/1.tar.gif", ".."]
    found = [folder.save(ImageFile(str(tmp_path / "x.png"), name), weights) for name in names]
    expected = ["a/1.png", "a/1-2.png", "a/1-3.png", "1.png", "1-2.png", "abs/1.tar.png", "image.png"]
    assert found == [str(tmp_path / "maps" / name) for name in expected]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found)
