"""`inspect_run`: a run directory -> the page, and the pictures of the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import split_images
from cctkit.data.images import open_images
from cctkit.data.splits import Dataset
from cctkit.data.splitting import rule_of
from cctkit.errors import ResourceError, UserError
from cctkit.evaluation.trained import find_trained
from cctkit.inspection.batch import Fed, first_batch
from cctkit.inspection.looking import Looker
from cctkit.inspection.mistakes import Classified, Mistake, classified, examples, mistakes
from cctkit.inspection.output import check_output, keep_picture, picture_bytes, write_page
from cctkit.inspection.page import Page, render
from cctkit.inspection.parts import (
    CheckPart,
    check_part,
    confusion_part,
    curves_part,
    matrix_of,
    rate_part,
    reliability_part,
    settings_part,
)
from cctkit.inspection.pictures import data_uri
from cctkit.inspection.run import InspectedRun, Missing, NoDataError, part, read_run
from cctkit.inspection.tables import Sizes, class_table, environment_table, epoch_sentence, figures, need_rows, sizes
from cctkit.plots import Tile, draw_confusion, draw_grid
from cctkit.runs.paths import DEFAULT_ROOT, newest_run
from cctkit.summary.summary import summarize
from cctkit.text import safe_text
from cctkit.training.prepare import normalised_as

T = TypeVar("T")
Notify = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig:
    """What to show, and where to write it.

    dataset: where the images of the run are now; None: where they were.
    mistakes: how many are shown; with 0 the training images are not looked through.
    check: whether to check the images as `cctkit check` does.
    """

    output: Path
    dataset: str | None = None
    mistakes: int = 12
    check: bool = True
    device: str = "auto"
    threads: int | None = None


def inspect_run(source: Path | None, config: InspectConfig, *, notify: Notify, progress: Progress) -> dict[str, Any]:
    """Write the page about a run (None: the newest), and its pictures into the run directory.

    Returns: what `--json` prints; see docs/reference/files.md.

    Raises: UserError if there is no such run, one of its files is malformed, or the output is a file of something else.
    """
    check_output(config.output)
    if source is None:
        source = newest_run(DEFAULT_ROOT)
        notify(f"using the newest run, {safe_text(source)}")
    run = read_run(source, notify=notify)
    maker = _Maker(run=run, config=config, notify=notify, progress=progress)
    page = maker.page()
    html = render(page).encode()
    write_page(config.output, html)
    return {
        "schema_version": 1,
        "output": str(config.output),
        "bytes": len(html),
        "pictures": [str(path) for path in maker.pictures],
        "without_data": [{"part": name, "reason": reason} for name, reason in page.missing().items()],
    }


@dataclass(slots=True, kw_only=True, eq=False)
class _Maker:
    """Makes the parts of the page, one after the other. pictures: those that were written into the run."""

    run: InspectedRun
    config: InspectConfig
    notify: Notify
    progress: Progress
    pictures: list[Path] = field(default_factory=list)

    def page(self) -> Page:
        run = self.run
        dataset = part(self._dataset)
        images = part(lambda: self._classified(_there(dataset)))
        looker = part(lambda: self._looker(_there(dataset)))
        return Page(
            title=self._title(),
            name=run.paths.path.resolve().name,
            state=epoch_sentence(run),
            figures=part(lambda: figures(run.need_result())),
            curves=part(lambda: curves_part(run)),
            learning_rate=part(lambda: rate_part(run)),
            confusion=part(lambda: confusion_part(run, partial(data_uri, self._confusion_picture(), "png"))),
            classes=part(lambda: class_table(need_rows(run.need_result()))),
            mistakes=part(lambda: self._mistakes(looker, images)),
            batch=part(lambda: self._batch(_there(dataset))),
            reliability=part(lambda: reliability_part(run)),
            heat_maps=part(lambda: examples(_there(looker), _there(images))),
            sizes=part(self._sizes),
            check=part(self._check),
            settings=settings_part(run),
            environment=environment_table(run.env),
        )

    def _title(self) -> str:
        return f"{self.run.config.model.model} on {self.run.env['dataset'].get('name', 'its images')}"

    def _data(self) -> DataConfig:
        """Where the images are, and how they are read."""
        data = self.run.config.data
        return replace(data, dataset=self.config.dataset or data.dataset, download=False)

    def _dataset(self) -> Dataset:
        """The images of the run. Raises: NoDataError if they are not there any more, or have changed."""
        run, config = self.run, self._data()
        try:
            images = open_images(config, progress=self.progress, notify=self.notify)
            dataset = split_images(images, config, split_rule=rule_of(run.env["dataset"], safe_text(run.paths.env)))
        except ResourceError:
            raise
        except UserError as error:
            where = f" ({error.where})" if error.where else ""
            raise NoDataError(f"The images of the run cannot be opened: {error.what}{where}.") from error
        if dataset.fingerprint != run.env["dataset"]["fingerprint"]:
            raise NoDataError(f"The images of {dataset.name} are not those that the run was trained with.")
        return normalised_as(dataset, run.env["init"])

    def _classified(self, dataset: Dataset) -> Classified:
        return classified(self.run.need_predictions(), dataset.test, temperature=self.run.info.temperature)

    def _looker(self, dataset: Dataset) -> Looker:
        trained = self.run.need_trained()
        source = find_trained(self.run.paths.path, notify=self.notify)
        policy = source.choose_policy(device=self.config.device, threads=self.config.threads)
        return Looker(trained=trained, dataset=dataset, policy=policy)

    def _mistakes(self, looker: Looker | Missing, images: Classified | Missing) -> Sequence[Mistake]:
        found = mistakes(
            _there(looker),
            _there(images),
            number=self.config.mistakes,
            on_batch=partial(self.progress, "comparing with the training images"),
        )
        tiles = []
        for each in found:
            shown, near = each.shown, each.nearest
            tiles.append(
                Tile(
                    pixels=shown.image.pixels,
                    caption=(shown.label, f"taken for {shown.taken_for}", f"{100 * shown.probability:.1f}%"),
                )
            )
            tiles.append(Tile(pixels=near.image.pixels, caption=("nearest in train:", near.label, f"cosine {near.cosine:.3f}")))
        title = f"{self._title()}: the most confident mistakes"
        self._keep(self.run.paths.mistakes, partial(draw_grid, tiles, columns=6, title=title))
        return found

    def _batch(self, dataset: Dataset) -> Sequence[Fed]:
        found = first_batch(self.run.config, dataset)
        tiles = [Tile(pixels=each.image.pixels, caption=(each.label,)) for each in found]
        title = f"{self._title()}: the first batch, augmented"
        self._keep(self.run.paths.batch, partial(draw_grid, tiles, columns=6, title=title))
        return found

    def _confusion_picture(self) -> bytes:
        predictions = self.run.need_predictions()
        title = f"{self._title()}, {predictions.split}: {len(predictions.labels):,} images"
        draw = partial(draw_confusion, matrix_of(predictions), predictions.class_names, title=title)
        return self._keep(self.run.paths.confusion, draw)

    def _keep(self, path: Path, draw: Callable[[Path], None]) -> bytes:
        """Write a picture into the run; return it."""
        data = picture_bytes(draw)
        if keep_picture(path, data, self.notify):
            self.pictures.append(path)
        return data

    def _sizes(self) -> Sizes:
        config = self.run.config
        return sizes(summarize(self.run.info.model, batch_size=config.batch_size, optimizer=config.optimizer))

    def _check(self) -> CheckPart:
        if not self.config.check:
            raise NoDataError("The images were not checked (--no-check).")
        return check_part(self._data(), progress=self.progress, notify=self.notify)


def _there(found: T | Missing) -> T:
    """What was found. Raises: NoDataError with the reason if there is nothing."""
    if isinstance(found, Missing):
        raise NoDataError(found.sentence)
    return found
