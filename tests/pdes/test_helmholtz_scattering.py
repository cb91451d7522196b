"""Scattering: media, superposition, one factorisation for everything, derivatives in both directions, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.errors import NumericalError
from pdediff.pdes import HelmholtzScattering, Problem, radiation
from pdediff.pdes.radiation import radiate

PDE = HelmholtzScattering(wave_number=10.0, layer=6)


def noise(*shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_media_lie_between_nothing_and_the_contrast_and_fade_at_the_edge() -> None:
    pde = HelmholtzScattering(contrast=0.8)
    coarse, fine = (pde.draw(range(8), n).fields["contrast"] for n in (32, 64))
    assert fine.min() > 0.0
    assert 0.7 < fine.max() < 0.8
    assert fine[:, 0].max() < 1e-2
    assert fine[:, :, -1].max() < 1e-2
    cells = fine.unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
    assert (cells - coarse).abs().max() < 0.05
    angles = pde.draw(range(200), 8).scalars["angle"]
    assert 0.0 <= angles.min() < 0.2
    assert 6.0 < angles.max() < 6.2832


def test_nothing_scatters_without_contrast_and_little_scatters_as_born_says() -> None:
    angle = torch.tensor([0.3], dtype=torch.float64)
    q = PDE.draw((1,), 24).fields["contrast"]

    def scattered(scale: float) -> Tensor:
        fields = PDE.solve(Problem({"contrast": scale * q}, {"angle": angle}))
        return torch.complex(fields["real"], fields["imaginary"])

    assert not scattered(0.0).any()
    born = radiate(0.0 * q, -100.0 * (q * PDE.incoming(angle, 24))[:, None], 10.0, 6)[:, 0]
    distance = [((scattered(s) / s - born).norm() / born.norm()).item() for s in (1e-2, 1e-3)]
    assert distance[0] < 0.05
    assert distance[0] / distance[1] == pytest.approx(10.0, rel=0.1)


def test_the_incoming_wave_travels_in_its_direction() -> None:
    w = PDE.incoming(torch.tensor([0.0, torch.pi / 2], dtype=torch.float64), 32)
    for row, along, across in ((0, 2, 1), (1, 1, 2)):
        assert w[row].diff(dim=across - 1).abs().max() < 1e-12
        assert (w[row].narrow(along - 1, 1, 31) / w[row].narrow(along - 1, 0, 31)).angle().mean() == pytest.approx(
            10 / 32
        )


def test_sources_of_one_medium_superpose() -> None:
    q = PDE.draw((1, 2), 16).fields["contrast"]
    sources = torch.complex(noise(2, 3, 16, 16), noise(2, 3, 16, 16).flip(0))
    u = radiate(q, sources, 10.0, 6)
    together = radiate(q, sources.sum(1, keepdim=True), 10.0, 6)
    torch.testing.assert_close(u.sum(1, keepdim=True), together, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [1, 6])
def test_medium_and_source_lie_where_they_are_drawn(layer: int) -> None:
    # a wave comes first, and is largest, at its source: whatever the layer, the place does not move
    sources = torch.zeros(1, 1, 16, 16, dtype=torch.complex128)
    sources[0, 0, 3, 11] = 1.0
    u = radiate(torch.zeros(1, 16, 16, dtype=torch.float64), sources, 10.0, layer)[0, 0].abs()
    assert divmod(int(u.argmax()), 16) == (3, 11)


def test_one_factorisation_serves_values_and_all_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    splu = radiation.scipy.sparse.linalg.splu

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return splu(*arguments, **options)

    monkeypatch.setattr(radiation.scipy.sparse.linalg, "splu", counted)
    problem = PDE.draw((1, 2), 16)
    q = problem.fields["contrast"].requires_grad_()
    field = PDE.solve(Problem({"contrast": q}, problem.scalars))["real"]
    (gradient,) = torch.autograd.grad(field.square().sum(), q, create_graph=True)
    torch.autograd.grad(gradient.square().sum(), q)
    assert count == 2, "one for each row"


def test_derivatives_of_first_and_second_order_in_both_directions() -> None:
    q, angle = PDE.draw((1,), 6).fields["contrast"].requires_grad_(), torch.tensor([0.4], dtype=torch.float64)
    sources = torch.complex(noise(1, 2, 6, 6), noise(1, 2, 6, 6).flip(0)).requires_grad_()

    def solve(q: Tensor, sources: Tensor) -> Tensor:
        return radiate(q, sources, 5.0, 3)

    assert torch.autograd.gradcheck(solve, (q, sources), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, (q, sources), check_fwd_over_rev=True, fast_mode=True)

    def real(q: Tensor, angle: Tensor) -> Tensor:
        return PDE.solve(Problem({"contrast": q}, {"angle": angle}))["real"]

    assert torch.autograd.gradcheck(real, (q, angle.requires_grad_()), check_forward_ad=True, fast_mode=True)


def test_many_tangents_and_the_adjoint() -> None:
    problem = PDE.draw((1, 2), 12)
    q = problem.fields["contrast"]

    def fields(q: Tensor) -> Tensor:
        solved = PDE.solve(Problem({"contrast": q}, problem.scalars))
        return torch.stack([solved["real"], solved["imaginary"]], 1)

    directions = noise(3, 2, 12, 12)
    tangents = torch.func.vmap(lambda d: torch.func.jvp(fields, (q,), (d,))[1])(directions)
    for direction, tangent in zip(directions, tangents, strict=True):
        torch.testing.assert_close(tangent, torch.func.jvp(fields, (q,), (direction,))[1], rtol=1e-10, atol=1e-12)
    product = torch.func.vjp(fields, q)[1](tangents[0])[0]
    assert (product * directions[0]).sum() == pytest.approx(tangents[0].square().sum().item(), rel=1e-9)
    media = torch.stack([q, 0.5 * q, 0.0 * q])
    for medium, field in zip(media, torch.func.vmap(fields)(media), strict=True):
        torch.testing.assert_close(field, fields(medium), rtol=1e-10, atol=1e-12)


def test_a_medium_that_is_not_finite_is_refused() -> None:
    problem = PDE.draw((1, 2), 16)
    problem.fields["contrast"][1, 3, 3] = torch.nan
    with pytest.raises(NumericalError, match="wave number 10"):
        PDE.solve(problem)
