"""Ranks divide a batch: every image once, together with its partner, and weights that give the global mean."""

import numpy as np
import pytest

from cctkit.data.epoch.loader import share_of_batch

SIZES = [(size, ranks) for size in (1, 2, 3, 5, 8, 13, 64, 127, 128) for ranks in (1, 2, 3, 4, 7, 8)]


@pytest.mark.parametrize(("size", "ranks"), SIZES)
def test_every_position_is_computed_once_with_equal_weight(size: int, ranks: int) -> None:
    shares = [share_of_batch(40, 40 + size, rank=rank, ranks=ranks) for rank in range(ranks)]
    real = [rows for rows, count in shares if count > 0]
    assert sorted(np.concatenate(real)) == list(range(40, 40 + size))
    assert all((np.diff(rows) > 0).all() for rows in real)
    assert max(map(len, real)) - min(map(len, real)) <= 2
    values = np.arange(1000.0) ** 2
    means = [count * values[rows].mean() for rows, count in shares]
    assert np.isclose(np.mean(means), values[40 : 40 + size].mean(), rtol=1e-14)
    assert all(len(rows) == 1 and rows[0] == 40 for rows, count in shares if count == 0)


@pytest.mark.parametrize(("size", "ranks"), SIZES)
def test_a_rank_has_the_partners_of_its_images_in_reverse_order(size: int, ranks: int) -> None:
    for rank in range(ranks):
        rows, count = share_of_batch(40, 40 + size, rank=rank, ranks=ranks)
        if count:
            assert [40 + 40 + size - 1 - row for row in rows] == list(rows[::-1])


def test_one_rank_computes_all_in_order() -> None:
    rows, count = share_of_batch(5, 12, rank=0, ranks=1)
    assert (list(rows), count) == ([5, 6, 7, 8, 9, 10, 11], 1.0)
