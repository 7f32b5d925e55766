"""`cctkit.Classifier`: files, PIL images and arrays in, classes out, as the evaluation has it."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import cctkit
from cctkit.cli.app import run
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.prediction.classifier import Transform
from cctkit.runs.predictions import read_predictions
from tests.prediction.weights import info_of, write_weights
from tests.probes import write_probe


@pytest.fixture(scope="module")
def classifier(trained: Path) -> cctkit.Classifier:
    return cctkit.Classifier(trained / "run")


def test_the_logits_of_a_runs_test_images_are_those_of_its_evaluation_to_the_bit(
    trained: Path, classifier: cctkit.Classifier
) -> None:
    expected = read_predictions(trained / "run" / "predictions.safetensors")
    assert len(expected.ids) == 8
    found = classifier.predict(trained / "images" / name for name in expected.ids)
    np.testing.assert_array_equal([each.logits for each in found], expected.logits, strict=True)
    names = [classifier.classes[row.argmax()] for row in expected.logits]
    assert [each.class_name for each in found] == names


@pytest.mark.parametrize("choice", [f"{each},{impl}" for each in ("float32", "bf16") for impl in ATTENTION_IMPLS])
def test_whatever_a_machine_chooses_the_logits_are_those_of_its_evaluation_to_the_bit(
    choice: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, choice)))
    weights = tmp_path / "weights.safetensors"  # without its run, whose choice would be kept
    weights.write_bytes((trained / "run" / "weights.safetensors").read_bytes())
    data, saved = str(trained / "images"), tmp_path / "saved.safetensors"
    assert run(["eval", str(weights), "--dataset", data, "--save-predictions", str(saved), "--quiet"]) == 0
    classifier = cctkit.Classifier(weights)
    policy = classifier.policy
    assert f"{policy.precision},{policy.attention_in_evaluation}" == choice
    expected = read_predictions(saved)
    found = classifier.predict(trained / "images" / name for name in expected.ids)
    np.testing.assert_array_equal([each.logits for each in found], expected.logits, strict=True)


def test_an_image_alone_has_the_logits_that_it_has_in_a_batch(trained: Path, classifier: cctkit.Classifier) -> None:
    expected = read_predictions(trained / "run" / "predictions.safetensors")
    for name, logits in zip(expected.ids, expected.logits, strict=True):
        (found,) = classifier.predict(str(trained / "images" / name))
        np.testing.assert_allclose(found.logits, logits, rtol=0, atol=1e-5)


def test_files_images_and_arrays_are_classified_alike_also_mixed(trained: Path, classifier: cctkit.Classifier) -> None:
    paths = [trained / "images" / name / f"{i}.png" for i in range(3) for name in ("dark", "light")]
    expected = [each.logits for each in classifier.predict(paths)]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    mixed = [paths[0], Image.open(paths[1]), arrays[2], str(paths[3]), Image.open(paths[4]), arrays[5]]
    for images in (mixed, map(Image.open, paths), arrays, np.stack(arrays)):
        found = [each.logits for each in classifier.predict(images)]
        np.testing.assert_array_equal(found, expected)


def test_a_grey_array_is_the_colour_image_with_equal_channels(classifier: cctkit.Classifier) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    found = classifier.predict([grey, grey[:, :, None], np.repeat(grey[:, :, None], 3, axis=2)])
    assert np.array_equal(found[0].logits, found[2].logits)
    assert np.array_equal(found[1].logits, found[2].logits)


def test_probabilities_are_the_softmax_of_the_logits_and_the_top_is_sorted(
    trained: Path, classifier: cctkit.Classifier
) -> None:
    (found,) = classifier.predict(trained / "images" / "dark" / "0.png", top=5)
    exponentials = np.exp(found.logits.astype(np.float64))
    expected = dict(zip(classifier.classes, exponentials / exponentials.sum(), strict=True))
    assert [name for name, _ in found.top] == sorted(expected, key=lambda name: -expected[name])
    assert [value for _, value in found.top] == pytest.approx([expected[name] for name, _ in found.top])
    assert (found.class_name, found.probability) == found.top[0]
    (short,) = classifier.predict(trained / "images" / "dark" / "0.png")
    assert short.top == found.top[:1]


def test_a_temperature_changes_the_probabilities_and_neither_logits_nor_classes(tmp_path: Path) -> None:
    info = info_of("cct_2_3x2", classes=("ant", "bee", "cat", "dog"), size=16)
    plain = cctkit.Classifier(write_weights(tmp_path / "plain.safetensors", info))
    scaled = cctkit.Classifier(write_weights(tmp_path / "scaled.safetensors", replace(info, metrics={"temperature": 0.02})))
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    for before, after in zip(plain.predict(images, top=4), scaled.predict(images, top=4), strict=True):
        np.testing.assert_array_equal(after.logits, before.logits)
        assert [name for name, _ in after.top] == [name for name, _ in before.top]
        exponentials = np.exp((after.logits.astype(np.float64) - after.logits.max()) / 0.02)
        assert [value for _, value in after.top] == pytest.approx(sorted(exponentials / exponentials.sum())[::-1], rel=1e-4)
        assert after.probability > before.probability + 0.05


def _odd_images(folder: Path) -> list[Path]:
    """Files whose pixels depend on how they are read: turned by EXIF, transparent, 16 bits, palette, CMYK."""
    generator = np.random.default_rng(0)
    pixels = Image.fromarray(generator.integers(0, 256, (14, 22, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(folder / "turned.jpg", exif=exif)
    clear = pixels.convert("RGBA")
    clear.putalpha(Image.fromarray(generator.integers(0, 256, (14, 22), dtype=np.uint8)))
    clear.save(folder / "clear.png")
    Image.fromarray(generator.integers(0, 65536, (14, 22), dtype=np.uint16)).save(folder / "deep.png")
    pixels.quantize(16).save(folder / "palette.png", transparency=3)
    pixels.convert("CMYK").save(folder / "cmyk.jpg")
    return sorted(folder.iterdir())


def test_the_transform_gives_the_input_of_the_files_pixels_and_can_be_pickled(
    tmp_path: Path, classifier: cctkit.Classifier
) -> None:
    paths = _odd_images(tmp_path)
    transform: Transform = pickle.loads(pickle.dumps(classifier.transform))
    found = torch.stack([transform(Image.open(path)) for path in paths])
    assert found.dtype == torch.float32
    assert found.shape == (5, 3, 16, 16)
    pixels = np.stack([classifier.preprocess.load(str(path)) for path in paths])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (classifier.info.mean, classifier.info.std))
    torch.testing.assert_close(found, (torch.from_numpy(pixels) / 255 - mean) / std, rtol=0, atol=1e-5)
    with torch.inference_mode():
        logits = classifier.model(found).numpy()
    np.testing.assert_allclose([each.logits for each in classifier.predict(paths)], logits, rtol=0, atol=1e-5)


class _Files(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, paths: list[Path], transform: Transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]))


def test_the_transform_works_in_the_workers_of_a_data_loader(tmp_path: Path, classifier: cctkit.Classifier) -> None:
    files = _Files(_odd_images(tmp_path), classifier.transform)
    (batch,) = DataLoader(files, batch_size=5, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(batch, torch.stack([files[i] for i in range(5)]))


def test_an_image_that_is_classified_stays_as_it_was(tmp_path: Path, classifier: cctkit.Classifier) -> None:
    _odd_images(tmp_path)
    image = Image.open(tmp_path / "turned.jpg")
    before = (image.size, image.getexif()[0x0112])
    classifier.predict(image)
    classifier.transform(image)
    assert (image.size, image.getexif()[0x0112]) == before == ((22, 14), 6)


def test_what_the_weights_say_is_there(trained: Path, classifier: cctkit.Classifier) -> None:
    model, info = cctkit.load(trained / "run")
    assert classifier.info == info
    assert classifier.classes == ("dark", "light")
    assert not classifier.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(classifier.model.state_dict()[name], tensor)
    assert cctkit.Classifier(trained / "run" / "weights.safetensors").info == info


def test_more_than_a_batch_is_classified_in_batches_of_250(trained: Path, classifier: cctkit.Classifier) -> None:
    image = np.asarray(Image.open(trained / "images" / "dark" / "0.png"))
    found = classifier.predict(image for _ in range(251))
    assert len(found) == 251
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), dtype=np.float32), r"an array of float32 \(8, 8, 3\)"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"an array of uint8 \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"an array of uint8 \(0, 8, 3\)"),
        ([7], "an image of type int"),
        (Image.new("F", (8, 8)), "floating-point pixels"),
        ("gone.png", "cannot read the image: No such file or directory; gone.png"),
    ],
)
def test_what_is_no_image_is_an_error_that_names_it(image: object, message: str, classifier: cctkit.Classifier) -> None:
    with pytest.raises(cctkit.UserError, match=message):
        classifier.predict(image)  # type: ignore[arg-type]


def test_a_top_below_one_is_an_error(classifier: cctkit.Classifier) -> None:
    with pytest.raises(cctkit.UserError, match="top is 0, expected at least 1"):
        classifier.predict([], top=0)


def test_an_image_above_the_limit_is_an_error(trained: Path) -> None:
    small = cctkit.Classifier(trained / "run", max_pixels=100)
    with pytest.raises(cctkit.UserError, match="20x12 pixels, expected at most 100"):
        small.predict(trained / "images" / "dark" / "0.png")


def test_the_newest_run_is_the_default_and_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained / "run")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert cctkit.Classifier(notify=said.append).classes == ("dark", "light")
    assert said == ["using the newest run, runs/mine"]


def test_weights_that_have_become_useless_are_an_error(trained: Path) -> None:
    broken = cctkit.Classifier(trained / "run")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(cctkit.UserError, match="the model's output is not finite"):
        broken.predict(trained / "images" / "dark" / "0.png")
