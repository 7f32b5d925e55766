"""What has to happen to an image file before it enters the exported graph, as JSON for the metadata of the file."""

from typing import Any

from cctkit.data.preprocess import Preprocess

CONTRACT_SCHEMA = 1


def contract_of(preprocess: Preprocess, *, temperature: float | None) -> dict[str, Any]:
    """The steps of `data.preprocess` up to the uint8 images, and what the graph itself does after them.

    `box` is the largest centered box with the aspect ratio of `size`; its corners need not be whole pixels.
    """
    height, width = preprocess.stored_size
    is_cropped = preprocess.resize_mode == "crop"
    return {
        "schema_version": CONTRACT_SCHEMA,
        "frame": "first",
        "exif_orientation": "applied",
        "mode": "RGB",
        "transparency": "over white",
        "grey_16_bit": "value // 256",
        "crop": "center" if is_cropped else None,
        "resize_filter": "bilinear",
        "antialias": True,
        "resize": f"Pillow: image.resize((width, height), Image.Resampling.BILINEAR{', box=box' if is_cropped else ''})",
        "size": [height, width],
        "dtype": "uint8",
        "layout": "NHWC",
        "in_graph": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "image_size": list(preprocess.image_size or preprocess.stored_size),
            "upsampling": "bilinear" if preprocess.image_size not in (None, preprocess.stored_size) else None,
            "temperature": temperature,
            "probabilities": "softmax(logits)" if temperature is None else "softmax(logits / temperature)",
        },
    }
