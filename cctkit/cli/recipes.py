"""`cctkit recipes`."""

from typing import Annotated

from cctkit.cli.options import flag


def recipes(
    as_json: Annotated[bool, flag("--json", text="print JSON with every setting and its source")] = False,
) -> None:
    """List the training recipes: purpose, expected accuracy, and differences from the source."""
    from cctkit.catalog.recipes import RECIPES
    from cctkit.cli.tables import print_json, print_text

    if as_json:
        rows = [
            {
                "recipe": name,
                "purpose": row.purpose,
                "expected": row.expected,
                "differs": row.differs,
                "sources": {source: dict(values) for source, values in row.sources.items()},
                "one_convolution": dict(row.one_conv),
            }
            for name, row in RECIPES.items()
        ]
        print_json({"schema_version": 1, "recipes": rows})
        return
    lines = []
    for name, row in RECIPES.items():
        lines.append(f"{name}: {row.purpose}")
        lines += [
            f"  {heading}: {text}"
            for heading, text in (("expected", row.expected), ("differs from its source", row.differs))
            if text
        ]
    print_text("\n".join(lines))
