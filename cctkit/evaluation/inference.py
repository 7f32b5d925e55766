"""A trained model from its weights file, and its evaluation on the images it was made for or on others."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.config.size import MAX_PIXELS
from cctkit.data.copies import Digests
from cctkit.data.dataset import load_dataset
from cctkit.data.overlap import copy_figures, read_seen, seen_in_training
from cctkit.data.preprocess import enlarges
from cctkit.data.splits import Dataset, Split
from cctkit.data.splitting import BY_FILE, rule_of
from cctkit.data.streamed import is_of_streamed
from cctkit.digests import not_verified
from cctkit.engine.device import DevicePolicy, choose_policy
from cctkit.engine.environment import read_environment
from cctkit.errors import UserError
from cctkit.evaluation.evaluate import Evaluation, count_parameters, evaluate_split, result_of
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, check_tensors, read_weights
from cctkit.runs.predictions import check_new, write_csv, write_predictions
from cctkit.runs.rundir import RunPaths, newest_run, weights_file
from cctkit.runs.runfiles import read_settings
from cctkit.text import counted, nearest, safe_text

_NAMED = 5  # classes in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What the user asks of an evaluation beside the model.

    split: None: the test images; all of a folder that has no test part and that the model was not trained with. include_seen:
    of another data set, do not leave out the images that the run was trained on.
    """

    data: DataConfig
    split: str | None = None
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None
    save_predictions: Path | None = None
    include_seen: bool = False


def load(path: str | Path) -> tuple[nn.Module, WeightsInfo]:
    """The model of a weights file or a run directory, in evaluation mode, and what the file says about it.

    Raises: UserError where the file is none of ours, or its tensors are not the model's.
    """
    tensors, info = read_weights(Path(path))
    check_tensors(tensors, info, Path(path))
    model = build_model(info.model, seed=0)
    model.load_state_dict(tensors)
    return model.eval(), info


def evaluate_source(
    source: Path | None, wish: EvalConfig, *, notify: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Evaluate a run (the newest where `source` is None) or a weights file; a finished run keeps its predictions.

    Raises: UserError.
    """
    if wish.save_predictions is not None:
        check_new(wish.save_predictions)
    run = source
    if run is None:
        run = newest_run(Path("runs"))
        notify(f"evaluating the newest run, {safe_text(run)}")
    stored = DataConfig()
    kept: dict[str, Any] = {}
    seen: Digests | None = None
    weights, predictions, is_finished = run, wish.save_predictions, None
    if run.is_dir():
        place = RunPaths(run)
        if not place.config.is_file():
            raise UserError(
                "this is no run directory: it has no config.json", safe_text(run), "images are named by --dataset FOLDER"
            )
        weights = weights_file(run)
        stored, kept = read_settings(place.config)[0].data, read_environment(place.env)["policy"]
        seen, is_finished = read_seen(place.seen), place.result.is_file()
        if is_finished and wish.data.dataset is None and wish.split in (None, "test"):
            predictions = predictions or place.predictions
    model, info = load(weights)
    if info.digest is None:
        notify(not_verified(weights))
    policy = _policy(wish, kept)
    dataset = _images(info, wish, stored, notify, progress)
    if dataset.unverified:
        notify(dataset.unverified)
    name = wish.split or _default_split(dataset, info, notify)
    split = _split(dataset, name)
    order = _class_order(dataset, info.class_names, wish.data.dataset)
    is_own = dataset.fingerprint == info.dataset["fingerprint"]
    if is_own and wish.include_seen:
        raise UserError("these are the images that the run itself was made with", "--include-seen", "leave it out")
    split, figures = (split, {}) if is_own else _unseen(split, seen, wish, dataset, notify)
    missing = [each for each in info.class_names if each not in dataset.class_names]
    if missing:
        notify(f"not in the images, and left out: {_listed(missing)}; an image that is taken for one of them counts as wrong")
    evaluation = evaluate_split(
        policy.prepare(model),
        split,
        mean=info.mean,
        std=info.std,
        policy=policy,
        image_size=info.model.image_size,
        labels=order[split.labels],
        on_batch=lambda done, total: progress(f"evaluating on {name}", done, total),
        workers=dataset.workers(None),
    )
    if predictions is not None:
        _save(predictions, evaluation, split, dataset, info, name)
    if is_own and split in (dataset.test, dataset.val):
        figures = copy_figures(split, dataset.train, evaluation.is_correct)
    result = figures | result_of(
        evaluation,
        model=info.model.name,
        dataset=dataset.name,
        split=name,
        params=count_parameters(model),
        class_names=info.class_names,
    )
    trained = dict.fromkeys(("epoch", "planned_epochs", "chosen_by")) if info.trained is None else asdict(info.trained)
    return result | {"missing_classes": missing, **trained, "finished": is_finished}


def _policy(wish: EvalConfig, kept: dict[str, Any]) -> DevicePolicy:
    """As the run was trained, so that the figures repeat; otherwise this machine's choice."""
    policy = choose_policy(device=wish.device, precision=wish.precision or kept.get("precision", "auto"), threads=wish.threads)
    if kept and policy.device == kept["device"]:
        policy = replace(policy, attention_in_evaluation=kept["attention_in_evaluation"])
    return policy


def _images(
    info: WeightsInfo,
    wish: EvalConfig,
    stored: DataConfig,
    notify: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> Dataset:
    """The images asked for, else the run's, else those that the weights file names; at the model's size.

    What was trained on a streamed folder is evaluated on one: were it packed, it would be split otherwise, and images of
    training would be among those of the test.
    """
    name = wish.data.dataset or stored.dataset or (info.dataset["name"] if info.dataset["named"] else None)
    if name is None:
        raise UserError(
            f"the weights come from the folder {safe_text(info.dataset['name'])}, which is not known here",
            "eval",
            "say which images: --dataset FOLDER",
        )
    config = replace(
        wish.data,
        dataset=name,
        data_dir=wish.data.data_dir or stored.data_dir,
        image_size=info.model.image_size,
        resize_mode=info.resize_mode,
        split_seed=info.dataset["split_seed"],
        skip_bad=wish.data.skip_bad or stored.skip_bad,
        max_pixels=wish.data.max_pixels if wish.data.max_pixels != MAX_PIXELS else stored.max_pixels,
        stream=is_of_streamed(info.dataset["fingerprint"]) and name not in DATASETS and Path(name).is_dir(),
    )
    rule = rule_of(info.dataset, "the header of the weights file")
    at_first = BY_FILE if wish.data.dataset else rule  # of other images all are evaluated, also where copies hinder a split
    dataset = load_dataset(config, progress=progress, notify=notify, split_rule=at_first)
    stored_size = info.upsampling.stored_size if info.upsampling else info.model.image_size
    if not enlarges(dataset.stored_size, stored_size):  # more pixels than the model saw in training
        config = replace(config, image_size=stored_size)
        dataset = load_dataset(config, progress=progress, notify=notify, split_rule=at_first)
    if dataset.fingerprint == info.dataset["fingerprint"]:
        val_fraction = info.dataset["val_fraction"]
        if val_fraction > 0 or (
            dataset.split_made and rule != dataset.split_rule
        ):  # others may have validation images of their own
            config = replace(config, val_fraction=val_fraction)
            dataset = load_dataset(config, progress=progress, notify=notify, split_rule=rule)
    elif wish.data.dataset is None:
        raise UserError(
            f"the images of {dataset.name} are not those that the model was trained with",
            "eval",
            "give --dataset to use others",
        )
    return dataset


def _default_split(dataset: Dataset, info: WeightsInfo, notify: Callable[[str], None]) -> str:
    if not dataset.split_made or dataset.fingerprint == info.dataset["fingerprint"]:
        return "test"
    notify(f"{dataset.name} has no test part and is not what the model was trained with: all of its images are evaluated")
    return "all"


def _split(dataset: Dataset, name: str) -> Split:
    if name == "all":
        return dataset.whole()
    splits = {"test": dataset.test, "val": dataset.val, "train": dataset.train}
    if name not in splits:
        raise UserError(f"unknown split '{safe_text(name)}', expected {', '.join(splits)} or all", "--split")
    split = splits[name]
    if split is None:
        there = ", ".join(key for key, value in splits.items() if value is not None)
        raise UserError(f"{dataset.name} has no {name} split, it has: {there}", "--split")
    return split


def _unseen(
    split: Split, seen: Digests | None, wish: EvalConfig, dataset: Dataset, notify: Callable[[str], None]
) -> tuple[Split, dict[str, Any]]:
    """The images of `split`, of another data set, that the run was not trained on, and what the result says of the others.

    Raises: UserError where none is left.
    """
    found = seen_in_training(split, seen)
    if found is None:
        why = "without seen.safetensors of its run" if seen is None else "since these images are not known by their pixels"
        notify(f"whether the model was trained on some of these images: not checked, {why}")
        return split, {"seen_in_training": None, "seen_included": None}
    figures = {"seen_in_training": len(found), "seen_included": wish.include_seen}
    if len(found) == 0 or wish.include_seen:
        if len(found):
            notify(f"the run was trained on {len(found):,} of these {counted(len(split), 'image')}, which are included")
        return split, figures
    if len(found) == len(split):
        raise UserError(
            f"the run was trained on all of these {counted(len(split), 'image')}",
            safe_text(wish.data.dataset or dataset.name),
            "give --dataset others, or evaluate them nonetheless: --include-seen",
        )
    notify(
        f"left out {len(found):,} of {counted(len(split), 'image')}, on which the run was trained (--include-seen keeps them)"
    )
    return split.only(np.delete(np.arange(len(split)), found)), figures


def _class_order(dataset: Dataset, class_names: tuple[str, ...], asked: str | None) -> np.ndarray:
    """The model's label of each class of the data set, joined by name: int64 (classes,).

    Raises: UserError naming the classes that the model does not know.
    """
    new = [name for name in dataset.class_names if name not in class_names]
    if new:
        near = [
            f"'{safe_text(name)}' is like '{safe_text(found[0])}'" for name in new if (found := nearest(name, class_names, 1))
        ]
        raise UserError(
            f"the model does not know {counted(len(new), 'class', 'classes')} of the images: {_listed(new)}",
            safe_text(asked or dataset.name),
            f"rename or leave out their folders; {'; '.join(near[:_NAMED])}" if near else "leave their folders out",
        )
    return np.array([class_names.index(name) for name in dataset.class_names], dtype=np.int64)


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(map(safe_text, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _save(path: Path, evaluation: Evaluation, split: Split, dataset: Dataset, info: WeightsInfo, name: str) -> None:
    ids, labels, logits = split.ids(), evaluation.labels.numpy(), evaluation.logits.numpy()
    if path.suffix.lower() == ".csv":
        write_csv(path, ids=ids, labels=labels, logits=logits, class_names=info.class_names)
        return
    write_predictions(
        path,
        ids=ids,
        labels=labels,
        logits=logits,
        class_names=info.class_names,
        split=name,
        fingerprint=dataset.fingerprint,
        split_fingerprint=split.fingerprint(),
    )
