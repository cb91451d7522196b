"""What every equation must do: configs build, rows are their own, gradients are right, solutions satisfy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pdediff import pdes
from pdediff.pdes import PDE, Problem, check
from pdediff.types import Purpose, derive_many

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pde").glob("*.yaml"))
SEEDS = derive_many(3, Purpose.PROBLEM, range(5))
# Discrete residual of the solver's own output: conjugate gradients stop at 1e-10 of |f|, which one cell of
# a 32 x 32 grid may carry alone (32e-10); the step map is repeated to rounding.
RESIDUAL = 1e-8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_builds_an_equation_that_solves_its_problems(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    kind = getattr(pdes, node.pop("kind"))
    assert set(node) <= set(kind.__dataclass_fields__)
    full = kind(**node)
    pde = kind(**node | {k: v for k, v in {"frames": 3, "warm_up": 2}.items() if k in node})
    assert isinstance(pde, PDE)
    fields = pde.solve(pde.draw(SEEDS[:2], 32))
    coordinates = pde.coordinates(32)
    variables = pde.variables()
    assert [v.name for v in variables] == list(fields)
    for variable in variables:
        assert fields[variable.name].shape == (2, *(len(coordinates[d]) for d in variable.dims))
        assert fields[variable.name].dtype == torch.float64
    assert check(pde, fields) == [None, None]
    assert pde.residual(fields).abs().max() < RESIDUAL
    assert all(len(value) == 2 for value in pde.invariants(fields).values())
    assert full.inner_description(32)["method"]


def test_config_folder_is_complete() -> None:
    assert {p.stem for p in CONFIGS} >= {"darcy", "darcy_lognormal", "kolmogorov2d", "ks1d"}


def test_a_sample_has_the_same_bits_in_any_batch(small: tuple[PDE, int]) -> None:
    pde, grid = small
    whole = pde.solve(pde.draw(SEEDS, grid))
    for start, stop in ((0, 1), (4, 5), (1, 3), (2, 5)):
        part = pde.solve(pde.draw(SEEDS[start:stop], grid))
        for name, value in part.items():
            assert torch.equal(value, whole[name][start:stop]), (name, start, stop)


def test_seeds_name_samples(small: tuple[PDE, int]) -> None:
    pde, grid = small
    first = pde.draw(SEEDS[:2], grid)
    name = next(iter(first.fields))
    assert not torch.equal(first.fields[name][0], first.fields[name][1])


def test_gradient_of_solve_agrees_with_differences(small: tuple[PDE, int]) -> None:
    pde, grid = small
    problem = pde.draw(SEEDS[:2], grid)
    name, value = next(iter(problem.fields.items()))
    output = next(v.name for v in pde.variables() if v.role == "output")
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(pde.solve(problem)[output].shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return (pde.solve(Problem({name: x}, problem.scalars))[output] * weights).sum()

    x = value.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x), x)
    # the two central differences combine to fourth order: what is left is the rounding of the solve
    (d1, d2) = ((objective(value + e * direction) - objective(value - e * direction)) / (2 * e) for e in (1e-3, 2e-3))
    expected = (4.0 * d1 - d2) / 3.0
    assert abs((gradient * direction).sum() - expected) < 1e-6 * abs(expected)


def test_solution_is_the_same_with_and_without_gradients(small: tuple[PDE, int]) -> None:
    pde, grid = small
    problem = pde.draw(SEEDS[:2], grid)
    tracked = Problem({k: v.clone().requires_grad_() for k, v in problem.fields.items()}, problem.scalars)
    for name, value in pde.solve(tracked).items():
        assert torch.equal(value, pde.solve(problem)[name])


def test_float32_storage_keeps_bounds_and_residual(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = pde.solve(pde.draw(SEEDS, grid))
    stored = {name: value.float() for name, value in fields.items()}
    assert check(pde, stored) == [None] * len(SEEDS)
    output = fields[next(v.name for v in pde.variables() if v.role == "output")].abs().max()
    # rounding of u times the largest entry of the discrete operator: 8 a / h^2, or 1 / frame_step
    rate = 8.0 * fields["permeability"].max() * grid**2 if "permeability" in fields else 1.0 / pde.frame_step
    assert pde.residual({k: v.double() for k, v in stored.items()}).abs().max() < 4.0 * rate * 6e-8 * output


def test_check_names_what_is_wrong(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = {k: v.clone() for k, v in pde.solve(pde.draw(SEEDS[:4], grid)).items()}
    output = next(v for v in pde.variables() if v.role == "output")
    value = fields[output.name]
    value[0].view(-1)[-1] = torch.nan
    value[1].view(-1)[0] = output.lower - 1.0
    value[2].view(-1, grid ** len([d for d in output.dims if d != "time"]))[-1] = 0.01
    reasons = check(pde, fields)
    assert reasons[0] == f"{output.name} is not finite"
    assert "outside" in str(reasons[1])
    assert reasons[2] == f"{output.name} has a constant frame"
    assert reasons[3] is None


def test_coordinates_are_increasing_physical_numbers(small: tuple[PDE, int]) -> None:
    pde, grid = small
    for name, values in pde.coordinates(grid).items():
        assert values.dtype == np.float64
        assert (np.diff(values) > 0).all(), name
