"""Observation: likelihood by hand, normalisation, rows, and errors that say what is wrong."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import GaussianNoise, Observation, PointSensors, mask_sensors


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def observation() -> Observation:
    """Readings 3 and 5 of the points of fields (1, 2), with standard deviations 1 and 2."""
    return Observation(vector(3.0, 5.0), mask_sensors(torch.ones(1, 2, dtype=torch.bool)), GaussianNoise(vector(1, 2)))


def test_log_prob_by_hand():
    """x = (1, 1): residuals 2 and 4, terms -2 - log sqrt(2 pi) and -2 - log 2 - log sqrt(2 pi)."""
    x = torch.ones(2, 1, 2, dtype=torch.float64)
    x[1] = vector(3.0, 5.0)
    constant = math.log(2 * math.pi) + math.log(2)
    assert observation().residual(x).tolist() == [[2.0, 4.0], [0.0, 0.0]]
    assert observation().log_prob(x).tolist() == pytest.approx([-4 - constant, -constant], abs=1e-14)
    assert observation().noise.whiten(observation().residual(x))[0].tolist() == [2.0, 2.0]


def test_noise_samples_have_their_std_and_their_seed():
    noise = GaussianNoise(vector(0.5, 3.0))
    drawn = noise.sample(range(10000))
    # Relative standard error of a standard deviation sqrt(1 / 2n) = 0.007; six of them.
    torch.testing.assert_close(drawn.std(0), vector(0.5, 3.0), rtol=0.043, atol=0)
    assert float((drawn[:, 0] * drawn[:, 1]).mean()) == pytest.approx(0, abs=6 * 1.5 / 100)
    torch.testing.assert_close(noise.sample((42,))[0], drawn[42], rtol=0, atol=0)
    assert noise.sample((1,), torch.float32).dtype == torch.float32


def test_normalised_sees_the_same_readings():
    """x = 10 + 2 z: the likelihood of z is that of x, and the derivative carries the scale."""
    normal = observation().normalised(torch.full((1, 2), 10.0).double(), torch.full((1, 2), 2.0).double())
    z = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(normal.log_prob(z), observation().log_prob(10 + 2 * z), rtol=1e-13, atol=1e-13)
    assert normal.operator.linear
    assert normal.rows(z[0]).flatten(1).tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_rows_are_the_matrix():
    """operator(x) = rows . x + operator(0) for sensors off the grid under an offset."""
    positions = torch.rand(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    sensors = PointSensors.at([0, 1, 1, 0, 0], positions, (2, 4, 4))
    o = Observation(torch.zeros(5).double(), sensors, GaussianNoise(torch.ones(5).double()))
    o = o.normalised(torch.full((2, 4, 4), 3.0).double(), torch.full((2, 4, 4), 0.5).double())
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = o.rows(x[0])
    assert rows.shape == (5, 2, 4, 4)
    expected = x.flatten(1) @ rows.flatten(1).T + o.operator(torch.zeros_like(x))
    torch.testing.assert_close(o.operator(x), expected, rtol=1e-12, atol=1e-12)


SENSORS = mask_sensors(torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("y", "std", "message"),
    [
        (vector(), vector(), "m >= 1 readings"),
        (vector(1, 2), vector(1), r"got \(2,\) readings and \(1,\) stds"),
        (vector(1, 2)[None], vector(1, 2)[None], "m >= 1 readings"),
        (vector(1, math.nan), vector(1, 1), "reading 1 is not finite"),
        (vector(math.inf, 1), vector(1, 1), "reading 0 is not finite"),
        (vector(1, 2), vector(1, 0), "std of reading 1 is not a positive number"),
        (vector(1, 2), vector(-1, 1), "std of reading 0 is not a positive number"),
        (vector(1, 2), vector(1, math.inf), "std of reading 1 is not a positive number"),
        (vector(1, 2), vector(math.nan, 1), "std of reading 0 is not a positive number"),
    ],
)
def test_bad_observations_are_refused(y, std, message):
    with pytest.raises(DataError, match=message):
        Observation(y, SENSORS, GaussianNoise(std))
