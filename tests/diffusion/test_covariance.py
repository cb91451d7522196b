"""Every covariance against the dense matrix that it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch

from pdediff.diffusion import (
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    GaussianRandomField,
    LowRankCovariance,
    conjugate_gradients,
    isotropic,
    solve_sum,
)
from pdediff.diffusion.covariance import mix
from pdediff.errors import NumericalError

SHAPE = (2, 3, 4)
SIZE = 24
# Condition numbers here are below 1e4, so float64 leaves twelve digits; 1e-10 has two to spare.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric_spectrum(seed: int) -> torch.Tensor:
    """Positive eigenvalues that a real field can have: equal at k and -k."""
    power = torch.fft.fftn(normals(seed, *SHAPE), dim=(1, 2)).abs() ** 2
    return power / power.mean() + 0.1


def make(kind: str, seed: int = 0):
    if kind == "diagonal":
        return DiagonalCovariance(normals(seed, *SHAPE).square() + 0.3)
    if kind == "isotropic":
        return isotropic(SHAPE, 0.7 + seed)
    if kind == "fourier":
        return FourierCovariance(symmetric_spectrum(seed))
    if kind == "dense":
        root = normals(seed, SIZE, SIZE)
        return DenseCovariance(root @ root.T / SIZE + 0.1 * torch.eye(SIZE, dtype=torch.float64), SHAPE)
    return LowRankCovariance(normals(seed, *SHAPE).square() + 0.2, normals(seed + 50, 3, *SHAPE))


KINDS = ("diagonal", "isotropic", "fourier", "dense", "low_rank")


def dense(apply) -> torch.Tensor:
    """Matrix of a linear map on fields of SHAPE, column j = map of the j-th unit field."""
    return apply(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)).reshape(SIZE, SIZE).T


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_matrix_it_says(kind):
    c = make(kind)
    matrix = dense(c.matvec)
    assert c.shape == SHAPE
    torch.testing.assert_close(matrix, matrix.T, **EXACT)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    torch.testing.assert_close(c.diagonal().flatten(), matrix.diagonal(), **EXACT)
    torch.testing.assert_close(dense(c.solve) @ matrix, torch.eye(SIZE, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(dense(c.scaled(2.5).matvec), 2.5 * matrix, **EXACT)


def test_matrices_by_hand():
    """One number of each kind written out, so that a wrong meaning cannot hide behind self-consistency."""
    v = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    diagonal = DiagonalCovariance(torch.tensor([[3.0, 5.0]], dtype=torch.float64))
    assert diagonal.matvec(v).flatten().tolist() == [3.0, 10.0]
    # Eigenvalues 3 (mean) and 1 (difference): matrix [[2, 1], [1, 2]].
    fourier = FourierCovariance(torch.tensor([[3.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(fourier.matvec(v).flatten(), torch.tensor([4.0, 5.0], dtype=torch.float64))
    # diag(1, 1) + u u^T with u = (1, 2): matrix [[2, 2], [2, 5]].
    low = LowRankCovariance(torch.ones(1, 2, dtype=torch.float64), torch.tensor([[[1.0, 2.0]]], dtype=torch.float64))
    assert low.matvec(v).flatten().tolist() == [6.0, 12.0]


@pytest.mark.parametrize("kind", KINDS)
def test_mix_is_the_mean_of_matrices(kind):
    low, high = make(kind, 0), make(kind, 1)
    expected = 0.7 * dense(low.matvec) + 0.3 * dense(high.matvec)
    torch.testing.assert_close(dense(mix(low, high, 0.3).matvec), expected, **EXACT)


def test_mix_refuses_two_kinds():
    with pytest.raises(TypeError, match="cannot mix"):
        mix(make("dense"), make("fourier"), 0.5)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
def test_solve_sum(first, second):
    a, b = make(first, 0), make(second, 1)
    rhs = normals(9, 3, *SHAPE)
    expected = torch.linalg.solve(dense(a.matvec) + dense(b.matvec), rhs.flatten(1).T).T.reshape(rhs.shape)
    # Conjugate gradients stop at a relative residual of 1e-10; times a condition number below 100.
    torch.testing.assert_close(solve_sum(a, b, rhs), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_parts_follow_the_field(kind):
    """Stored covariances are float32, the algebra of guidance float64: the result has the field's type."""
    c = make(kind)
    parts = {name: t.float() for name, t in vars(c).items() if isinstance(t, torch.Tensor)}
    single = type(c)(**parts, **({"field_shape": SHAPE} if kind == "dense" else {}))
    v = normals(3, 2, *SHAPE)
    for name in ("matvec", "solve"):
        assert getattr(single, name)(v).dtype == torch.float64
        torch.testing.assert_close(getattr(single, name)(v), getattr(c, name)(v), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_covariance_and_depend_on_their_seed_alone(kind):
    c = make(kind)
    x = c.draw(range(10000), torch.float64)
    found = x.flatten(1).T @ x.flatten(1) / len(x)
    matrix = dense(c.matvec)
    # Entry ij has standard error sqrt((C_ij^2 + C_ii C_jj) / n);
    # 576 entries at six of them: a false alarm of 1e-6 a kind.
    error = ((matrix**2 + matrix.diagonal()[:, None] * matrix.diagonal()) / len(x)).sqrt()
    assert ((found - matrix).abs() / error).max() < 6
    torch.testing.assert_close(c.draw([7], torch.float64)[0], x[7], rtol=0, atol=1e-12)
    assert c.draw([7]).dtype == torch.float32


def test_conjugate_gradients_rows_are_independent():
    """A row stops by its own residual: the same iterate alone and in a batch of easy, large and zero rows.

    The product is taken row by row, because a matrix product rounds differently for another batch size and conjugate
    gradients amplify that up to their tolerance.
    """
    matrix = make("dense").matrix
    rhs = normals(1, 4, SIZE)
    rhs[1] *= 1e6
    rhs[2] = 0.0

    def product(v: torch.Tensor) -> torch.Tensor:
        return torch.stack([row @ matrix for row in v])

    together = conjugate_gradients(product, rhs, tolerance=1e-4)
    assert together[2].abs().max() == 0
    for i in (0, 1, 3):
        alone = conjugate_gradients(product, rhs[i : i + 1], tolerance=1e-4)[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=0)
    # It stops: all rows iterated to the end of the slowest one would be closer than this.
    relative = (together @ matrix - rhs).norm(dim=1)[[0, 1, 3]] / rhs.norm(dim=1)[[0, 1, 3]]
    assert relative.max() < 1e-4


def test_conjugate_gradients_converges_to_its_tolerance_and_says_when_not():
    matrix = make("dense").matrix
    rhs = normals(1, 3, SIZE)
    found = conjugate_gradients(lambda v: v @ matrix, rhs, tolerance=1e-9)
    relative = (found @ matrix - rhs).norm(dim=1) / rhs.norm(dim=1)
    assert relative.max() < 2e-9  # the recursive residual that is tested drifts from the true one by rounding only
    assert conjugate_gradients(lambda v: v @ matrix, rhs, tolerance=1e-2).sub(found).abs().max() > 1e-6
    with pytest.raises(NumericalError, match="3 of 3 rows after 2 steps"):
        conjugate_gradients(lambda v: v @ matrix, rhs, tolerance=1e-9, iterations=2)


def test_fourier_covariance_is_a_circular_convolution():
    """Row of the matrix at a point = inverse transform of the spectrum, shifted there: the covariance function."""
    c = GaussianRandomField(0.2, 2.0).covariance((1, 8))
    matrix = c.matvec(torch.eye(8, dtype=torch.float64)[:, None]).flatten(1)
    kernel = torch.fft.ifft(c.spectrum[0]).real
    for i in range(8):
        torch.testing.assert_close(matrix[i], kernel.roll(i), **EXACT)
