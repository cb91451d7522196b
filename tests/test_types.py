"""Random rows by seed: the same bits as a generator of each seed's own, however rows are asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from pdediff.types import normal, uniform

SEEDS = (0, 1, 5, 2**32 + 1, 2**62 + 3, 2**63 - 1, 5, 17)


def own(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (64,), (65,), (2, 5)])
def test_rows_are_those_of_generators_of_their_own(shape):
    """Odd numbers of single-precision normals leave half a word behind, which must not reach the next row."""
    for dtype, kind in ((torch.float32, np.float32), (torch.float64, np.float64)):
        rows = [own(seed).standard_normal(shape, dtype=kind) for seed in SEEDS]
        assert torch.equal(normal(SEEDS, shape, dtype=dtype), torch.from_numpy(np.stack(rows)))
    rows = [own(seed).random(shape) for seed in SEEDS]
    assert torch.equal(uniform(SEEDS, shape), torch.from_numpy(np.stack(rows)))


def test_stored_values():
    """Numbers written down when a generator was made for each row: results of then stay reproducible."""
    assert normal((7,), (3,), dtype=torch.float64)[0].tolist() == [
        -1.7496944402112695,
        0.5745441092559128,
        0.6142833637530732,
    ]
    assert uniform((7,), (2,))[0].tolist() == [0.8720734548204873, 0.29536538151378355]


def test_threads_do_not_share_a_stream():
    """Four threads draw the same rows at the same time as one thread alone."""
    expected = normal(range(200), (33,))
    found: list[torch.Tensor | None] = [None] * 4
    barrier = threading.Barrier(4)

    def draw(i: int) -> None:
        barrier.wait()
        found[i] = normal(range(200), (33,))

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in found:
        assert rows is not None
        assert torch.equal(rows, expected)
