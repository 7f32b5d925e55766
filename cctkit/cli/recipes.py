"""`cctkit recipes`."""

from typing import Annotated

import typer


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with every setting and its source")] = False,
) -> None:
    """List the training recipes: what each is for, what it is expected to reach, and what differs from its source."""
    from cctkit.catalog.recipes import RECIPES
    from cctkit.cli.tables import print_json, result_console

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
    console = result_console()
    for name, row in RECIPES.items():
        console.print(f"{name}: {row.purpose}", soft_wrap=not console.is_terminal)
        for heading, text in (("expected", row.expected), ("differs from its source", row.differs)):
            if text:
                console.print(f"  {heading}: {text}", soft_wrap=not console.is_terminal)
