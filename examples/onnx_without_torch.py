"""Classify image files with a model that `cctkit export` wrote, with Pillow, numpy and onnxruntime alone.

    python examples/onnx_without_torch.py model.onnx photo.jpg scan.tif more/*.png

It prints each path, class and probability. `load` does what the file's metadata `cctkit.preprocessing` says; copy it whole.
"""

import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

BATCH_SIZE = 250
WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}


def load(path: str, height: int, width: int, crop: str | None) -> np.ndarray:
    """The first frame of an image file, upright and in RGB, brought to the size of the model: uint8 (height, width, 3)."""
    with Image.open(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip
            image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
        if image.mode in WITH_ALPHA or "transparency" in image.info:
            layer = image.convert("RGBA")
            image = Image.new("RGB", layer.size, "white")
            image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("RGB")
    if image.size == (width, height):
        return np.asarray(image)
    wide, high = image.size
    if crop == "center":  # the largest box of the model's shape, in the middle
        wide, high = min(wide, high * width / height), min(high, wide * height / width)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    box = (left, top, min(left + wide, image.width), min(top + high, image.height))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def classify(model: str, paths: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """The path, class and probability of each image file."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    classes, contract = json.loads(metadata["cctkit.classes"]), json.loads(metadata["cctkit.preprocessing"])
    for first in range(0, len(paths), BATCH_SIZE):
        batch = paths[first : first + BATCH_SIZE]
        images = np.stack([load(path, *contract["size"], contract["crop"]) for path in batch])
        (probabilities,) = session.run(["probabilities"], {"images": images})
        for path, row in zip(batch, probabilities, strict=True):
            yield path, classes[row.argmax()], float(row.max())


if __name__ == "__main__":
    for path, name, probability in classify(sys.argv[1], sys.argv[2:]):
        print(f"{path}\t{name}\t{probability:.4f}")
