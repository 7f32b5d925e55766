"""What the model makes of images: features, nearest training images; the first batch; charts."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cctkit.catalog.models import named_config
from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.data.dataset import load_dataset
from cctkit.engine.device import DevicePolicy, Precision
from cctkit.evaluation.load import LoadedModel, preprocess_of
from cctkit.inspection.batch import first_batch
from cctkit.inspection.charts import Line, bar_chart, line_chart, matrix_chart
from cctkit.inspection.looking import Looker, head_inputs
from cctkit.inspection.output import picture_bytes
from cctkit.inspection.run import NoDataError
from cctkit.models.attention import ATTENTION_IMPLS, AttentionImpl
from cctkit.models.build import build_model
from cctkit.plots import Tile, draw_grid
from cctkit.training.loop import plan_of
from tests.prediction.weights import info_of

POLICY = DevicePolicy(device="cpu", precision="float32", attention="plain", attention_in_evaluation="plain", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("looking")
    generator = np.random.default_rng(0)
    for part, name, number in (("train", "a", 150), ("train", "b", 151), ("test", "a", 4), ("test", "b", 4)):
        (place / part / name).mkdir(parents=True)
        for i in range(number):  # of strong colours, so that their features differ
            colours = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            Image.fromarray(colours).resize((8, 8), Image.Resampling.NEAREST).save(place / part / name / f"{i}.png")
    return place


def settings(folder: Path, **values: object) -> TrainConfig:
    plain = {"auto_augment": "none", "crop": "none", "flip": False, "batch_size": 20, "image_size": 8}
    return TrainConfig.from_flat({"dataset": str(folder), **plain, **values})


@pytest.mark.parametrize("name", ["cct_2_3x1", "vit_lite_6_4", "tct_3_2"])
def test_the_features_are_what_the_last_layer_sees(name: str) -> None:
    check_features(named_config(name, num_classes=3, image_size=(16, 16)), "classifier.fc")


@pytest.mark.slow  # importing torchvision takes seconds
def test_the_features_of_a_vit_are_what_its_last_layer_sees() -> None:
    config = named_config("vit_b_16", num_classes=3, image_size=(16, 16))
    check_features(dataclasses.replace(config, embed_dim=32, num_layers=1, num_heads=2), "heads.head")


def check_features(config: ModelConfig, name: str) -> None:
    model = build_model(config, seed=0).eval()
    head = model.get_submodule(name)
    with torch.inference_mode(), head_inputs(model) as found:
        logits = model(torch.randn(2, 3, 16, 16))
        assert torch.equal(head(found[0]), logits)
    model(torch.randn(2, 3, 16, 16))
    assert len(found) == 2  # the second by the test itself; then nothing is added any more


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("attention", ATTENTION_IMPLS)
def test_the_nearest_training_image_has_the_greatest_cosine_of_all(
    folder: Path, attention: AttentionImpl, precision: Precision
) -> None:
    dataset = load_dataset(settings(folder).data)
    info = info_of("cct_2_3x1", size=8)
    model = build_model(info.model, seed=3).eval()
    trained = LoadedModel(model=model, info=info, preprocess=preprocess_of(info))
    policy = dataclasses.replace(POLICY, precision=precision, attention_in_evaluation=attention)
    looker = Looker(trained=trained, dataset=dataset, policy=policy)
    assert dataset.test is not None
    images = dataset.test.take(np.arange(7))
    images[3] = dataset.train.take(np.array([290]))[0]
    told: list[tuple[int, int]] = []
    found = looker.nearest_in_training(images, lambda done, total: told.append((done, total)))
    with torch.inference_mode(), head_inputs(model) as features:
        model(trained.preprocess.to_input(images, channels_last=True))
        model(trained.preprocess.to_input(dataset.train.take(np.arange(301)), channels_last=True))
    cosines = torch.nn.functional.cosine_similarity(features[0][:, None].double(), features[1][None].double(), dim=2)
    best, where = cosines.max(dim=1)
    assert float(cosines.std()) > 0.01
    if precision == "float32":
        assert found.positions.tolist() == where.tolist()
    near = cosines.gather(1, torch.from_numpy(found.positions)[:, None]).squeeze(1)
    tolerance = 1e-5 if precision == "float32" else 0.02
    assert near.numpy() == pytest.approx(best.numpy(), abs=tolerance)
    assert found.cosines == pytest.approx(best.numpy(), abs=tolerance)
    assert found.positions[3] == 290
    assert told == [(250, 301), (301, 301)]


def test_a_model_with_a_class_token_has_no_heat_maps(folder: Path) -> None:
    info = info_of("vit_lite_6_4", size=8)
    trained = LoadedModel(model=build_model(info.model, seed=0), info=info, preprocess=preprocess_of(info))
    looker = Looker(trained=trained, dataset=load_dataset(settings(folder).data), policy=POLICY)
    with pytest.raises(NoDataError, match="it classifies a class token"):
        looker.heat_maps(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_without_augmentation_the_first_batch_has_the_pixels_of_the_images(folder: Path) -> None:
    config = settings(folder)
    dataset = load_dataset(config.data)
    order = plan_of(config, dataset, 0).order[:20].astype(np.int64)
    found = first_batch(config, dataset)
    expected = dataset.train.take(order).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack([each.image.pixels for each in found]), expected)
    assert [each.label for each in found] == [dataset.class_names[i] for i in dataset.train.labels[order]]


def test_a_mixed_image_has_both_labels_with_their_weights(folder: Path) -> None:
    config = settings(folder, mixup=1.0)
    dataset = load_dataset(config.data)
    plan = plan_of(config, dataset, 0).at(np.arange(20))
    assert plan.lam is not None
    lam, own = float(plan.lam[0]), dataset.train.labels[plan.order]
    expected = [
        "ab"[one] if one == two else f"{lam:.2f} {'ab'[one]} + {1 - lam:.2f} {'ab'[two]}"
        for one, two in zip(own, own[::-1], strict=True)
    ]
    assert [each.label for each in first_batch(config, dataset)] == expected
    assert any("+" in label for label in expected)


def test_a_chart_places_its_values_and_leaves_gaps() -> None:
    line = Line(name="val", colour=2, x=[1, 2, 3, 4], y=[0.0, 10.0, None, 5.0])
    chart = line_chart("loss", [line], x_label="epoch", y_label="nats", ring=(2, 10))
    left, top, right, bottom = chart.frame
    (drawn,) = chart.lines
    assert drawn.path == f"M{left:g} {bottom} L{left + (right - left) / 3:.2f} {top} M{right} {(top + bottom) / 2:g}"
    assert [dot.text for dot in drawn.dots] == ["val, 1: 0", "val, 2: 10", "val, 4: 5"]
    assert chart.ring is not None
    assert (chart.ring.x, chart.ring.y) == (drawn.dots[1].x, top)
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3", "4"]
    flat = line_chart("loss", [Line(name="train", colour=1, x=[1], y=[2.5])], x_label="epoch", y_label="nats")
    assert all(top <= dot.y <= bottom and left <= dot.x <= right for line in flat.lines for dot in line.dots)


def test_bars_stand_on_the_axis() -> None:
    chart = bar_chart("accuracy", [(0.2, 0.4, 0.5, "x")], x_label="", y_label="", diagonal="fit")
    left, top, right, bottom = chart.frame
    (bar,) = chart.bars
    assert (bar.y + bar.height, bar.height) == (pytest.approx(bottom), pytest.approx((bottom - top) / 2))
    assert bar.x == pytest.approx(left + 0.2 * (right - left), abs=0.01)
    assert bar.width + 1 == pytest.approx(0.2 * (right - left), abs=0.02)


def test_a_matrix_draws_the_cells_with_images_rows_by_class() -> None:
    counts = np.array([[3, 0, 1], [0, 0, 0], [0, 2, 2]])
    chart = matrix_chart(counts, ["a", "b", "c"])
    places = {(cell.label, round((cell.x - chart.left) / 30), round((cell.y - chart.top) / 30)) for cell in chart.cells}
    assert places == {("3", 0, 0), ("1", 2, 0), ("2", 1, 2), ("2", 2, 2)}
    assert chart.cells[1].text == "a: 1 of 4 taken for c"
    assert chart.cells[1].strength == 0.5  # the square root of a quarter
    small = matrix_chart(np.eye(100, dtype=int), [f"class {i}" for i in range(100)])
    assert small.width <= 1120  # of the page
    assert small.small
    assert not any(cell.label for cell in small.cells)


@pytest.mark.parametrize(("number", "columns"), [(1, 6), (7, 3)])
def test_a_grid_shows_every_image_whole_with_its_caption(number: int, columns: int) -> None:
    colours = [(250, 30 * i, 0) for i in range(number)]
    tiles = [Tile(pixels=np.full((4, 4, 3), colour, dtype=np.uint8), caption=("a name <b>\n" * 9, "2")) for colour in colours]
    data = picture_bytes(lambda path: draw_grid(tiles, path, columns=columns, title="$x^2$"))
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert image.info["Software"] == "cctkit inspect"
    areas = [(np.abs(pixels - colour).sum(axis=2) < 3).sum() for colour in colours]
    assert min(areas) == pytest.approx(max(areas), rel=0.02)
    assert min(areas) > 100**2
    assert (pixels[[0, -1]] == 255).all()
    assert (pixels[:, [0, -1]] == 255).all()
