"""Observation: likelihood by hand, normalisation, rows, and errors that say what is wrong."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import ConfigError, DataError
from pdediff.observe import (
    CorrelatedGaussianNoise,
    GaussianNoise,
    LogNormalNoise,
    Noise,
    Observation,
    PointSensors,
    PoissonNoise,
    StudentTNoise,
    exponential,
    mask_sensors,
)


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


@pytest.mark.parametrize(
    ("y", "noise", "message"),
    [
        (vector(1, 2), CorrelatedGaussianNoise(torch.eye(3).double()), r"\(3, 3\) covariances for \(2,\) readings"),
        (vector(1, 2), CorrelatedGaussianNoise(torch.diag(vector(1, 0))), "spread of reading 1 is not a positive"),
        (vector(1, 2), StudentTNoise(vector(1)), r"\(2,\) readings need as many scales; got \(1,\)"),
        (vector(1, 2), StudentTNoise(vector(1, -1)), "scale of reading 1 is not a positive number"),
        (vector(1, 2), StudentTNoise(vector(1, 1), 0.0), "freedom=0 must be a positive number"),
        (vector(1, -2), PoissonNoise(), "reading 1 is -2; counts are whole numbers"),
        (vector(1.5, 2), PoissonNoise(), "reading 0 is 1.5; counts are whole numbers"),
        (vector(1, 0), LogNormalNoise(vector(1, 1)), "reading 1 is 0; readings with log-normal errors are positive"),
        (vector(1, 2), LogNormalNoise(vector(1)), r"\(2,\) readings need as many spreads; got \(1,\)"),
        (vector(1, 2), LogNormalNoise(vector(0, 1)), "spread of reading 0 is not a positive number"),
    ],
)
def test_noise_that_does_not_fit_is_refused(y, noise, message):
    with pytest.raises(DataError, match=message):
        Observation(y, SENSORS, noise)


def test_wrong_covariances_are_refused():
    for covariance, message in (
        (torch.ones(2, 3), "finite square matrix; got shape"),
        (torch.full((2, 2), math.nan), "finite square matrix"),
        (torch.tensor([[1.0, 0.5], [0.4, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "not positive definite"),
    ):
        with pytest.raises(DataError, match=message):
            CorrelatedGaussianNoise.of(covariance)
    same_place = torch.zeros(2, 2).double()
    with pytest.raises(DataError, match="not positive definite"):
        CorrelatedGaussianNoise.at(same_place, 1.0, exponential(1.0))
    assert CorrelatedGaussianNoise.at(same_place, 1.0, exponential(1.0), white=0.1).factor.shape == (2, 2)


def test_impossible_rates_are_refused_when_readings_are_drawn():
    with pytest.raises(DataError, match="row 1 expects -2 counts at sensor 0; a rate is >= 0"):
        PoissonNoise().draw(vector(1, 2, -2, 3).reshape(2, 2), (0, 1))
    with pytest.raises(DataError, match="row 0 expects nan counts at sensor 1"):
        PoissonNoise().draw(vector(1, math.nan)[None], (0,))
    with pytest.raises(DataError, match="row 0 predicts 0 at sensor 1; it must be > 0"):
        LogNormalNoise(vector(1, 1)).draw(vector(1, 0)[None], (0,))


OTHERS = [StudentTNoise(vector(1, 1)), PoissonNoise(), LogNormalNoise(vector(1, 1))]


@pytest.mark.parametrize("noise", OTHERS, ids=lambda noise: type(noise).__name__)
def test_what_only_gaussian_errors_have_is_refused_by_name(noise: Noise):
    """One line that names the law, and a hint."""
    seen = Observation(vector(1, 2), SENSORS, noise)
    for call in (lambda: noise.std, noise.whitening, seen.whitened):
        with pytest.raises(ConfigError, match=f"{type(noise).__name__} is not Gaussian, which this method") as error:
            call()
        assert len(str(error.value).splitlines()) == 1
        assert "log_prob, whiten or variance" in (error.value.hint or "")


def test_correlated_errors_have_no_std():
    noise = CorrelatedGaussianNoise(torch.eye(2).double())
    with pytest.raises(ConfigError, match="no std of each reading alone") as error:
        noise.std
    assert error.value.hint == "observation.whitened() has independent errors"


@pytest.mark.parametrize("noise", OTHERS[1:], ids=lambda noise: type(noise).__name__)
def test_residuals_alone_are_refused_where_errors_are_not_additive(noise: Noise):
    calls = (lambda: noise.log_prob(vector(1, 1)[None]), lambda: noise.whiten(vector(1, 1)[None]))
    for call in (*calls, lambda: noise.sample((1,))):
        with pytest.raises(ConfigError, match=f"errors of {type(noise).__name__} depend on what is predicted"):
            call()
