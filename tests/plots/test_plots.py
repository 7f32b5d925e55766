"""The pictures: what is drawn, where, and that a file is whole, repeatable and of a known kind."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from cctkit.catalog.results import RESULTS
from cctkit.errors import UserError
from cctkit.plots import Curve, Point, crossing_epoch, draw_confusion, draw_curves, draw_pareto, draw_schedule, loss_ending
from cctkit.runs.comparison import published_row, ranked

SUFFIXES = (".png", ".svg", ".pdf")


def records(train: list[float], test: list[float | None], *, ending: str = "loss_smoothed") -> list[dict[str, Any]]:
    """Epochs with these losses, and accuracies that fall with them."""
    return [
        {
            "epoch": i,
            f"train_{ending}": a,
            f"test_{ending}": b,
            "train_top1_percent": 90 - a,
            "test_top1_percent": 90 - (b or 0),
        }
        for i, (a, b) in enumerate(zip(train, test, strict=True), start=1)
    ]


def numbers(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata()).tolist()  # type: ignore[no-any-return]


RUN = records([4.0, 3.0, 2.0, 1.0], [3.5, 2.8, 2.2, 2.0])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn in place of written."""
    drawn: list[Figure] = []
    for module in ("confusion", "curves", "schedule", "pareto"):
        monkeypatch.setattr(f"cctkit.plots.{module}.save_figure", lambda figure, _: drawn.append(figure))
    return drawn


def draw(kind: str, path: Path) -> None:
    if kind == "curves":
        draw_curves({"run": RUN}, path)
    elif kind == "schedule":
        draw_schedule({"ours": Curve(epochs=[0, 1, 2], lr=[0.1, 0.2, 0])}, path, title="Learning rate")
    else:
        draw_pareto({"CIFAR-100": report_points()}, path)


def report_points(*, beyond: bool = False) -> list[Point]:
    """The report's rows, or all those on CIFAR-100."""
    return [
        Point(
            name=f"{row.model} {row.kind}",
            family=row.family,
            group=row.training,
            params_millions=row.true_params_millions or row.params_millions or 0,
            top1_percent=row.top1_percent,
            on_front=row.pareto_true_params,
        )
        for table in ranked(
            published_row(row) for row in RESULTS if row.dataset == "cifar100" and (beyond or row.kind != "published")
        )
        for row in table
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["curves", "schedule", "pareto"])
def test_a_picture_is_written_whole_and_equal_each_time(tmp_path: Path, kind: str, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        draw(kind, path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first[:8].startswith({".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert sorted(item.name for item in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


@pytest.mark.parametrize("kind", ["curves", "schedule", "pareto"])
def test_a_file_that_cannot_be_a_plot_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder.png").mkdir()
    for name in ("a.gif", "a", "nothing/a.png", "folder.png"):
        with pytest.raises(UserError) as caught:
            draw(kind, tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_plotting_does_not_change_matplotlibs_state(tmp_path: Path) -> None:
    code = f"""
import sys
import matplotlib
matplotlib.rcParams["lines.linewidth"] = 7.5
from pathlib import Path
from cctkit.plots import Curve, draw_schedule
draw_schedule({{"a": Curve(epochs=[0, 1], lr=[1, 0])}}, Path({str(tmp_path / "a.png")!r}), title="t")
print(matplotlib.rcParams["lines.linewidth"], matplotlib.rcParams["text.parse_math"], "matplotlib.pyplot" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["7.5", "True", "False"]


def test_the_users_own_style_does_not_change_a_picture(tmp_path: Path) -> None:
    draw("curves", tmp_path / "a.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):
        draw("curves", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], [3.5, 2.8, 2.2, 2.0], 3),
        ([4.0, 3.0], [3.0, 2.0], None),
        ([2.0, 1.0], [3.0, 2.0], 1),
        ([2.0, 3.0, 1.0], [2.5, 2.0, 2.0], 3),  # it rose above in between
        ([2.0, 1.0, 1.0], [2.0, None, 1.5], 3),  # an equal loss is not below; an epoch without a test tells nothing
        ([], [], None),
    ],
)
def test_the_crossing_is_where_the_train_loss_falls_below_the_test_loss_for_good(
    train: list[float], test: list[float | None], expected: int | None
) -> None:
    assert crossing_epoch(records(train, test)) == expected


def test_the_smoothed_loss_is_shown_where_all_runs_have_it() -> None:
    plain = records([1.0], [1.0], ending="loss")
    assert loss_ending({"a": RUN}) == "loss_smoothed"
    assert loss_ending({"a": RUN, "b": plain}) == "loss"


def test_curves_show_each_splits_loss_and_top1_and_the_crossing(figures: list[Figure], tmp_path: Path) -> None:
    draw_curves({"run": RUN}, tmp_path / "a.png")
    loss, top1 = figures[0].axes
    lines = {line.get_label(): line for line in loss.get_lines()}
    assert numbers(lines["train"]) == [4.0, 3.0, 2.0, 1.0]
    assert numbers(lines["test"]) == [3.5, 2.8, 2.2, 2.0]
    assert [numbers(line) for line in top1.get_lines()] == [[86.0, 87.0, 88.0, 89.0], [86.5, 87.2, 87.8, 88.0]]
    assert [text.get_text() for text in loss.texts] == ["train below test\nfrom epoch 3"]
    assert (loss.get_title(), top1.get_ylabel()) == ("Loss with label smoothing", "%")
    draw_curves({"run": records([1.0], [1.0], ending="loss")}, tmp_path / "a.png")
    assert figures[1].axes[0].get_title() == "Loss"


def test_several_runs_are_told_apart_by_colour_and_splits_by_line(figures: list[Figure], tmp_path: Path) -> None:
    runs = {"_hidden $x$": RUN, "b": RUN[:2], "日本": RUN}
    draw_curves(runs, tmp_path / "a.png")
    (legend,) = figures[0].legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [" _hidden $x$", "b", "日本", "train", "test", "train loss falls below test loss"]
    lines = figures[0].axes[1].get_lines()
    assert len({line.get_color() for line in lines}) == 3
    assert {line.get_linestyle() for line in lines} == {"-", "--"}


def test_several_runs_without_test_figures_are_drawn_by_their_validation(figures: list[Figure], tmp_path: Path) -> None:
    by_val = [{key.replace("test_", "val_"): value for key, value in record.items()} for record in RUN]
    for runs, words in (({"a": by_val, "b": by_val}, "val"), ({"a": RUN, "b": by_val}, "test or val")):
        draw_curves(runs, tmp_path / "a.png")
        names = [text.get_text() for text in figures[-1].legends[0].get_texts()]
        assert names == ["a", "b", "train", words, f"train loss falls below {words} loss"]
        assert [numbers(line) for line in figures[-1].axes[1].get_lines()] == [
            [86.0, 87.0, 88.0, 89.0],
            [86.5, 87.2, 87.8, 88.0],
        ] * 2
        assert len(figures[-1].axes[0].get_lines()) == 2 * 2 + 2  # and a ring for each


def test_several_runs_with_nothing_held_out_are_drawn_by_train(figures: list[Figure], tmp_path: Path) -> None:
    alone = [{key: value for key, value in record.items() if not key.startswith("test_")} for record in RUN]
    draw_curves({"a": alone, "b": alone}, tmp_path / "a.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b", "train"]


@pytest.mark.parametrize("number", [1, 2])
def test_few_epochs_are_seen_as_points_at_whole_numbers(figures: list[Figure], tmp_path: Path, number: int) -> None:
    draw_curves({"run": RUN[:number]}, tmp_path / "a.png")
    loss = figures[0].axes[0]
    assert all(line.get_marker() == "o" for line in loss.get_lines())
    assert all(float(tick).is_integer() for tick in loss.get_xticks())
    low, high = loss.get_xlim()
    assert low < 1 <= number < high


def test_records_without_a_test_split_are_drawn(tmp_path: Path) -> None:
    draw_curves({"run": [{"epoch": 1, "train_loss": 1.0, "train_top1_percent": 5.0}]}, tmp_path / "a.png")
    draw_curves({"run": [{"epoch": 1}]}, tmp_path / "b.png")


def test_a_schedule_has_its_marks_and_a_second_axis_in_proportion(figures: list[Figure], tmp_path: Path) -> None:
    curve = Curve(epochs=[0, 1, 2], lr=[0.0, 0.002, 0.0])
    draw_schedule({"ours": curve}, tmp_path / "a.png", title="T", marks={"peak": 1}, second_axis=("Muon", 10))
    axes = figures[0].axes[0]
    figures[0].draw_without_rendering()
    (second,) = axes.child_axes
    assert second.get_ylim()[1] == pytest.approx(10 * axes.get_ylim()[1])
    assert [text.get_text() for text in axes.texts] == ["peak"]


def test_the_fronts_points_are_named_and_no_name_covers_another(figures: list[Figure], tmp_path: Path) -> None:
    draw_pareto({"CIFAR-100": report_points()}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    names = {text.get_text().split(" ")[0] for text in axes.texts}
    assert names == {"ViT-S", "ViT-B", "ViT-L", "CCT", "CCT-7/3x1", "CvT-6/4"}
    assert len(boxes) == 7
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_own_runs_are_named_first_and_of_those_at_one_place_as_many_as_have_room(figures: list[Figure], tmp_path: Path) -> None:
    runs = [
        Point(
            name=f"run {i}",
            family="cct",
            group="from scratch",
            params_millions=0.49,
            top1_percent=70.4,
            on_front=False,
            ours=True,
        )
        for i in range(30)
    ]
    draw_pareto({"CIFAR-100": [*report_points(), *runs]}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    names = [text.get_text() for text in axes.texts]
    assert names[:2] == ["run 0", "run 1"]
    assert not any(name.startswith("run") for name in names[2:])


def test_each_groups_front_is_a_line_and_parameters_are_logarithmic(figures: list[Figure], tmp_path: Path) -> None:
    draw_pareto({"CIFAR-100": report_points()}, tmp_path / "a.png", threshold={"CIFAR-100": 72.0})
    (axes,) = figures[0].axes
    fronts = {line.get_label(): numbers(line) for line in axes.get_lines() if str(line.get_label()).startswith("Pareto front")}
    assert fronts == {
        "Pareto front, pretrained on ImageNet-21k": [89.7, 91.97, 93.44],
        "Pareto front, from scratch": [70.46, 72.25, 76.71, 77.05],
    }
    assert axes.get_xscale() == "log"
    assert "below 72%: no score" in axes.get_legend_handles_labels()[1]


def test_a_single_point_can_be_plotted(tmp_path: Path) -> None:
    point = Point(name="a", family="other", group="g", params_millions=1, top1_percent=100, on_front=True, ours=True)
    draw_pareto({"x": [point]}, tmp_path / "a.png")


def test_a_confusion_matrix_shows_percentages_of_each_class_and_counts(figures: list[Figure], tmp_path: Path) -> None:
    matrix = np.array([[3, 0, 0, 1], [2, 6, 0, 0], [0, 0, 0, 0]])  # an image of a without a prediction; c has none
    draw_confusion(matrix, ["a", "b", "c"], tmp_path / "matrix.png", title="a title")
    axes, bar = figures[0].axes
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn, [[75, 0, 0], [25, 75, 0], [np.nan] * 3])
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "3"), ((0, 1), "2"), ((1, 1), "6")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert bar.get_ylabel() == "% of the images of the class"


@pytest.mark.parametrize(
    "classes", [1, 21, pytest.param(100, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.slow)]
)
def test_every_name_of_a_confusion_matrix_fits_beside_its_row(classes: int, figures: list[Figure], tmp_path: Path) -> None:
    draw_confusion(
        np.eye(classes, classes + 1, dtype=int), [f"class {i}" for i in range(classes)], tmp_path / "x.png", title=""
    )
    figure = figures[0]
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == (classes if classes <= 100 else 150)
    assert all(lower.y1 <= upper.y0 + 1 for upper, lower in itertools.pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)
    assert max(figure.get_size_inches()) < 30


@pytest.mark.slow
def test_the_names_of_the_axes_of_a_large_confusion_matrix_are_not_cut_off(tmp_path: Path) -> None:
    matrix = np.eye(100, 101, dtype=np.int64)
    draw_confusion(matrix, [f"class {i}" for i in range(100)], tmp_path / "matrix.png", title="100 classes")
    with Image.open(tmp_path / "matrix.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert [int(edge.min()) for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1])] == [255] * 4


def test_no_family_has_the_colour_of_another(figures: list[Figure], tmp_path: Path) -> None:
    families = ("cct", "cvt", "vit_lite", "vit", "condensenet", "densenet", "tct", "zennet")
    points = [
        Point(name=name, family=name, group="from scratch", params_millions=1 + i, top1_percent=70 - i, on_front=False)
        for i, name in enumerate(families)
    ]
    draw_pareto({"CIFAR-100": points}, tmp_path / "front.svg")
    colours = [line.get_color() for line in figures[0].axes[0].lines]
    assert len(colours) == len(set(colours)) == len(families)
