"""What every equation must do: rows are their own, solutions satisfy it, checks notice, frames lie right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.pdes import PDE, Problem, Variable, check
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(3, Purpose.PROBLEM, range(5))
# Residual of the solver's own output, relative to that of outputs that are off by one in a million: steady equations
# are solved to 1e-10 of the source, which one cell of a fine grid may carry alone; a step map is repeated to rounding.
REPEATED = 1e-3


def outputs(pde: PDE) -> list[Variable]:
    """Variables that the solver finds."""
    return [variable for variable in pde.variables() if variable.role == "output"]


def states(pde: PDE) -> list[Variable]:
    """Outputs of the most dims: the state; others (a record at the edge, a final frame) follow from it."""
    most = max(len(variable.dims) for variable in outputs(pde))
    return [variable for variable in outputs(pde) if len(variable.dims) == most]


def shaken(value: Tensor, relative: float) -> Tensor:
    """`value` with independent relative errors of that size."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return value * (1.0 + relative * noise)


def largest(pde: PDE, fields: dict[str, Tensor]) -> Tensor:
    """Largest residual of each row."""
    return pde.residual(fields).abs().flatten(1).amax(1)


def test_a_sample_has_the_same_bits_in_any_batch(small: tuple[PDE, int]) -> None:
    pde, grid = small
    # nine rows: more than the eight numbers of a processor's vector, and a remainder
    seeds = derive_many(3, Purpose.PROBLEM, range(9))
    whole = pde.solve(pde.draw(seeds, grid))
    for start, stop in ((0, 1), (8, 9), (1, 3), (4, 9)):
        part = pde.solve(pde.draw(seeds[start:stop], grid))
        for name, value in part.items():
            assert torch.equal(value, whole[name][start:stop]), (name, start, stop)


def test_seeds_name_samples(small: tuple[PDE, int]) -> None:
    pde, grid = small
    first, again = pde.draw(SEEDS[:2], grid), pde.draw(SEEDS[:2], grid, device="cpu")
    inputs = {**first.fields, **first.scalars}
    assert list(inputs) == [v.name for v in pde.variables() if v.role == "input"]
    assert len(first) == 2
    assert any(not torch.equal(value[0], value[1]) for value in inputs.values())
    assert all(torch.equal(value, {**again.fields, **again.scalars}[name]) for name, value in inputs.items())


def test_variables_come_as_they_are_described(small: tuple[PDE, int]) -> None:
    pde, grid = small
    problem = pde.draw(SEEDS[:3], grid)
    fields, coordinates, variables = pde.solve(problem), pde.coordinates(grid), pde.variables()
    assert [v.name for v in variables] == list(fields)
    roles = [v.role for v in variables]
    assert roles == sorted(roles), "inputs first"
    for variable in variables:
        value = fields[variable.name]
        assert value.shape == (3, *(len(coordinates[d]) for d in variable.dims)), variable.name
        assert value.dtype == torch.float64, variable.name
        assert variable.lower <= variable.upper, variable.name
        if variable.role == "output" and variable.dims:
            assert np.isfinite([variable.lower, variable.upper]).any(), f"nothing bounds {variable.name}"
    for name, value in {**problem.fields, **problem.scalars}.items():
        assert value.ndim == 1 or name in problem.fields
        torch.testing.assert_close(fields[name], value, rtol=1e-12, atol=1e-12)
    assert {name for v in variables for name in v.dims} == set(coordinates)


def test_residual_is_small_for_the_solution_and_for_nothing_else(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = pde.solve(pde.draw(SEEDS[:3], grid))
    left = largest(pde, fields)
    for variable in states(pde):
        wrong = largest(pde, fields | {variable.name: shaken(fields[variable.name], 1e-6)})
        assert (left < REPEATED * wrong).all(), (variable.name, left, wrong)


def test_float32_storage_keeps_bounds_and_residual(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = pde.solve(pde.draw(SEEDS, grid))
    stored = {name: value.float() for name, value in fields.items()}
    assert check(pde, stored) == [None] * len(SEEDS)
    rounded = largest(pde, {name: value.double() for name, value in stored.items()})
    # one rounding is at most 6e-8 relative: as much as random errors of that size leave over
    random = largest(pde, {name: shaken(value, 6e-8) for name, value in fields.items()})
    assert (rounded < 4.0 * random).all()


def test_check_names_what_is_wrong(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = {k: v.clone() for k, v in pde.solve(pde.draw(SEEDS[:4], grid)).items()}
    output = states(pde)[0]
    value = fields[output.name]
    value[0].view(-1)[-1] = torch.nan
    bound = output.lower - 1.0 if np.isfinite(output.lower) else output.upper + 1.0
    value[1].view(-1)[0] = bound
    space = [len(pde.coordinates(grid)[d]) for d in output.dims if d != "time"]
    if space:
        last = value[2].view(-1, int(np.prod(space)))[-1]
        last.fill_(last[0])
    reasons = check(pde, fields)
    assert reasons[0] == f"{output.name} is not finite"
    assert "outside" in str(reasons[1])
    assert reasons[2] == (f"{output.name} has a constant frame" if space else None)
    assert reasons[3] is None


def test_coordinates_are_increasing_physical_numbers(small: tuple[PDE, int]) -> None:
    pde, grid = small
    for name, values in pde.coordinates(grid).items():
        assert values.dtype == np.float64
        assert (np.diff(values) > 0).all(), name


def test_conserved_invariants_stay_within_their_bound(small: tuple[PDE, int]) -> None:
    pde, grid = small
    fields = pde.solve(pde.draw(SEEDS, grid))
    for kept in (fields, {name: value.float().double() for name, value in fields.items()}):
        invariants = pde.invariants(kept)
        assert all(len(value) == len(SEEDS) for value in invariants.values())
        for name, bound in pde.conserved.items():
            value = invariants[name]
            start = value[:, :1]
            drift = (value - start).abs() / start.abs().clamp(min=1.0)
            assert drift.max() <= bound, name


def test_description_tells_the_method(small: tuple[PDE, int]) -> None:
    pde, grid = small
    description = pde.inner_description(grid)
    assert description["method"]
    assert (pde.clock is None) or 0.0 < float(str(description["step"])) <= pde.clock.interval
    assert pde.formula
    assert pde.boundary
    assert pde.symmetries in ("square", "none")


def test_a_longer_run_begins_with_the_shorter_one(moving: tuple[PDE, int]) -> None:
    pde, grid = moving
    assert pde.clock is not None
    problem = pde.draw(SEEDS[:2], grid)
    longer = replace(pde, clock=replace(pde.clock, frames=pde.clock.frames + 1))  # type: ignore[type-var]
    short, long = pde.solve(problem), longer.solve(problem)
    assert np.array_equal(pde.coordinates(grid)["time"], pde.clock.times())
    for variable in outputs(pde):
        if variable.dims[:1] == ("time",):
            # one more frame changes the batch of the transforms, not the numbers
            first = long[variable.name][:, : pde.clock.frames]
            torch.testing.assert_close(first, short[variable.name], rtol=1e-12, atol=1e-12)


def test_residual_is_a_rate(moving: tuple[PDE, int]) -> None:
    pde, grid = moving
    assert pde.clock is not None
    fields = pde.solve(pde.draw(SEEDS[:2], grid))
    for variable in states(pde):
        value = fields[variable.name]
        wrong = value.clone()
        wrong[:, -1] = shaken(value, 1e-4)[:, -1]
        missed = (wrong - value).abs().max() / pde.clock.interval
        # the same, but for a change of variables and an interval of each sample's own
        assert 0.2 < pde.residual(fields | {variable.name: wrong}).abs().max() / missed < 5.0, variable.name


def test_float32_state_follows_the_float64_one(moving: tuple[PDE, int]) -> None:
    pde, grid = moving
    assert pde.clock is not None
    problem = pde.draw(SEEDS[:3], grid)
    single = replace(pde, clock=replace(pde.clock, precision="float32"))  # type: ignore[type-var]
    exact, fields = pde.solve(problem), single.solve(problem)
    for variable in outputs(pde):
        value = fields[variable.name]
        assert value.dtype == torch.float32, variable.name
        error = (value - exact[variable.name]).abs().max() / exact[variable.name].abs().max()
        # small, and not zero: the state was not float64 after all
        assert 0.0 < error < 1e-4, (variable.name, float(error))
    drawn = single.draw(SEEDS[:3], grid)
    assert check(single, single.solve(drawn)) == [None] * 3


@pytest.mark.gpu
def test_the_same_problem_has_the_same_solution_on_a_gpu(small: tuple[PDE, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    pde, grid = small
    drawn, there = pde.draw(SEEDS[:2], grid), pde.draw(SEEDS[:2], grid, device="cuda")
    for name, value in {**there.fields, **there.scalars}.items():
        assert value.is_cuda, name
        expected = {**drawn.fields, **drawn.scalars}[name]
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    expected = pde.solve(drawn)
    for name, value in pde.solve(Problem(drawn.fields, drawn.scalars).to("cuda")).items():
        assert value.is_cuda, name
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-8, atol=1e-8 * scale)
