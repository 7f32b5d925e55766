"""`cctkit compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cctkit.cli.options import Json, flag
from cctkit.cli.tables import print_text
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.text import nearest, safe_text

if TYPE_CHECKING:
    from cctkit.plots import Point
    from cctkit.runs.comparison import Row

_RUNS = Path("runs")


def compare(
    runs: Annotated[
        list[Path] | None,
        flag("--runs", text="run directory, or a directory of runs; may be repeated", default="runs/ if it exists"),
    ] = None,
    published: Annotated[
        bool,
        flag(
            "--published/--no-published",
            text="include the published results and the weights that come with cctkit",
            default="--published",
        ),
    ] = True,
    everything: Annotated[
        bool, flag("--all", text="include published results with more epochs, of other networks and on other data sets")
    ] = False,
    sort: Annotated[
        str | None, flag("--sort", text="sort by score, top1, params, macs, epochs or model", default="score")
    ] = None,
    family: Annotated[
        list[str] | None, flag("--family", text="only these families, separated by commas: cct, cvt, vit, vit_lite, ...")
    ] = None,
    min_accuracy: Annotated[
        float | None, flag("--min-accuracy", text="smallest top-1 accuracy in percent", at_least=0, at_most=100)
    ] = None,
    plot: Annotated[
        Path | None, flag("--plot", text="save a plot of accuracy against parameters as a .png, .svg or .pdf file")
    ] = None,
    paired: Annotated[
        tuple[Path, Path] | None,
        flag("--paired", metavar="A B", text="compare two runs on the same test images with McNemar's test"),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, flag("--csv", text="print CSV")] = False,
    as_markdown: Annotated[bool, flag("--markdown", text="print Markdown")] = False,
) -> None:
    """Compare runs with published results: the report's score table, and the Pareto front of accuracy and parameters."""
    if as_json + as_csv + as_markdown > 1:
        raise UserError("--json, --csv and --markdown cannot be combined", "command line", "choose one")
    if paired is not None:
        others = {"--runs": runs, "--all": everything, "--sort": sort, "--family": family, "--plot": plot, "--csv": as_csv}
        others |= {"--markdown": as_markdown, "--no-published": not published, "--min-accuracy": min_accuracy is not None}
        if names := [name for name, value in others.items() if value]:
            raise UserError(f"{', '.join(names)} cannot be combined with --paired", "command line")
        _print_paired(*paired, as_json=as_json)
        return
    from cctkit.runs.comparison import SORTS, ranked

    if sort not in (None, *SORTS):
        raise UserError(f"cannot sort by '{safe_text(sort)}'", "--sort", f"sort by one of: {', '.join(SORTS)}")
    if plot is not None:
        from cctkit.plots import check_picture

        check_picture(plot)
    rows, skipped = _collect(runs, published=published, everything=everything)
    for path, reason in skipped.items():
        print_text(f"skipped {path}: {reason}", stream=sys.stderr)
    kept = _filtered(rows, families=family, min_accuracy=min_accuracy)
    tables = ranked(kept, sort or "score")
    panels = None if plot is None else _panels(tables)
    _print_tables(tables, skipped, as_json=as_json, as_csv=as_csv, as_markdown=as_markdown)
    if plot is not None and panels is not None:
        _draw(panels, plot)


def _collect(runs: Sequence[Path] | None, *, published: bool, everything: bool) -> "tuple[list[Row], dict[str, str]]":
    """Rows of published results and own runs, and why runs were skipped, by path."""
    from cctkit.catalog.results import RESULTS
    from cctkit.runs.comparison import find_runs, published_row, shipped_rows

    if everything and not published:
        raise UserError("--all and --no-published cannot be combined", "command line")
    rows = shipped_rows() if published else []
    beside = {(row.model, row.dataset) for row in rows}
    rows += [
        published_row(result)
        for result in RESULTS
        if published and (everything or result.kind != "published" or (result.name, result.dataset) in beside)
    ]
    skipped: dict[str, str] = {}
    for root in dict.fromkeys(runs or ([_RUNS] if _RUNS.is_dir() else [])):
        found, bad = find_runs(root)
        rows += found
        skipped |= bad
    if not rows:
        raise UserError("found no finished run to compare", safe_text(_RUNS), "train a model: cctkit train, or add --runs DIR")
    return rows, skipped


def _filtered(rows: "Sequence[Row]", *, families: Sequence[str] | None, min_accuracy: float | None) -> "list[Row]":
    known = {row.family for row in rows}
    wanted = [name.strip().lower().replace("-", "_") for family in families or known for name in family.split(",")]
    for family in wanted:
        if family not in known:
            hint = nearest(family, known)
            raise UserError(
                f"no result of family '{safe_text(family)}'",
                "--family",
                f"choose from {', '.join(hint or sorted(known))}; --all adds more",
            )
    kept = [row for row in rows if row.family in wanted and row.top1_percent >= (min_accuracy or 0)]
    if not kept:
        raise UserError(f"no result has a top-1 accuracy of {min_accuracy:g}%", "--min-accuracy")
    return kept


def _print_tables(
    tables: "Sequence[Sequence[Row]]", skipped: dict[str, str], *, as_json: bool, as_csv: bool, as_markdown: bool
) -> None:
    from cctkit.cli.compare_view import as_dict, csv_text, markdown, render
    from cctkit.cli.tables import print_json, print_wide

    if as_json:
        left_out = [{"run": path, "reason": reason} for path, reason in skipped.items()]
        print_json({"schema_version": 1, "rows": [as_dict(row) for rows in tables for row in rows], "skipped": left_out})
    elif as_csv or as_markdown:
        sys.stdout.write(csv_text(tables) if as_csv else markdown(tables))
    else:
        print_wide(lambda width: render(tables, width=width))


def _panels(tables: "Sequence[Sequence[Row]]") -> "dict[str, list[Point]]":
    """The points to plot, per data set with at least two rows; sizes are the true numbers of parameters if known.

    Raises: UserError if no data set has two rows.
    """
    from cctkit.catalog.results import FROM_SCRATCH
    from cctkit.cli.compare_view import label, panel_title
    from cctkit.plots import Point

    by_title: dict[str, list[Row]] = {}
    for rows in sorted(tables, key=lambda rows: rows[0].training == FROM_SCRATCH):  # drawn last, with filled markers
        by_title.setdefault(panel_title(rows), []).extend(rows)
    panels = {}
    for title, rows in by_title.items():
        models = [row.model for row in rows if row.is_own]
        points = [
            Point(
                name=label(row, with_recipe=row.is_own and models.count(row.model) > 1),
                family=row.family,
                group=row.training,
                params_millions=size,
                top1_percent=row.top1_percent,
                on_front=row.pareto_true_params,
                ours=row.is_ours,
            )
            for row in rows
            if (size := row.true_params_millions or row.params_millions) is not None
        ]
        if len(points) > 1:
            panels[title] = points
        else:
            print_text(f"not plotted, as it has only one row: {title}", stream=sys.stderr)
    if not panels:
        raise UserError("no data set has two rows to plot", "--plot", "train another model on the same images")
    return panels


def _draw(panels: "dict[str, list[Point]]", path: Path) -> None:
    from cctkit.catalog.score import THRESHOLD_PERCENT
    from cctkit.cli.compare_view import SCORED_PANEL
    from cctkit.plots import draw_pareto

    draw_pareto(panels, path, threshold={SCORED_PANEL: THRESHOLD_PERCENT})
    print_text(f"wrote {safe_text(path)}", stream=sys.stderr)


def _print_paired(a: Path, b: Path, *, as_json: bool) -> None:
    from cctkit.cli.tables import print_json
    from cctkit.runs.paired import paired

    result = paired(a, b)
    for file in result.unverified:
        print_text(not_verified(file), stream=sys.stderr)
    n = result.num_images
    top1_a, top1_b = (100 * (result.both + only) / n for only in (result.only_a, result.only_b))
    if as_json:
        values: dict[str, Any] = {"schema_version": 1, "a": safe_text(a), "b": safe_text(b), "num_images": n}
        values |= {"both_correct": result.both, "only_a_correct": result.only_a, "only_b_correct": result.only_b}
        values |= {"neither_correct": result.neither, "top1_percent_a": top1_a, "top1_percent_b": top1_b}
        print_json(values | {"difference_percent": top1_a - top1_b, "mcnemar_p_value": result.p_value})
        return
    verdict = "significant" if result.p_value < 0.05 else "not significant"
    lines = [
        f"A  {top1_a:.2f}%  {safe_text(a)}",
        f"B  {top1_b:.2f}%  {safe_text(b)}",
        f"correct on the same {n:,} images: both {result.both:,}, only A {result.only_a:,}, only B {result.only_b:,}, "
        f"neither {result.neither:,}",
        f"difference {top1_a - top1_b:+.2f} points, McNemar's exact test p = {result.p_value:.3g}: {verdict} at the 5% level",
    ]
    print_text("\n".join(lines))
