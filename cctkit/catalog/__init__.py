"""The tables that a newcomer edits: models, data sets, recipes, published results."""
