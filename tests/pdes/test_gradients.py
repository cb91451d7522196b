"""Derivatives of every equation's solver: against differences, at no cost to the values, in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pdediff.pdes import PDE, Problem
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(3, Purpose.PROBLEM, range(2))


def inputs_of(problem: Problem) -> dict[str, Tensor]:
    """Fields and numbers of a problem by name."""
    return {**problem.fields, **problem.scalars}


def problem_of(like: Problem, inputs: dict[str, Tensor]) -> Problem:
    """The problem with these fields and numbers."""
    return Problem({name: inputs[name] for name in like.fields}, {name: inputs[name] for name in like.scalars})


def noise(shape: torch.Size, seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradient_of_solve_agrees_with_differences(small: tuple[PDE, int]) -> None:
    pde, grid = small
    problem = pde.draw(SEEDS, grid)
    inputs = inputs_of(problem)
    names = [variable.name for variable in pde.variables() if variable.role == "output"]
    weights = {name: noise(value.shape, 0) for name, value in pde.solve(problem).items() if name in names}

    def objective(changed: dict[str, Tensor]) -> Tensor:
        fields = pde.solve(problem_of(problem, inputs | changed))
        return sum(((fields[name] * weights[name]).sum() for name in names), start=torch.zeros(()))

    tracked = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    gradients = torch.autograd.grad(objective(tracked), list(tracked.values()))
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        # relative to each number where there is a sign to keep, else to the size of the field
        scale = value.abs() if value.min() >= 0.0 else value.square().mean().sqrt()
        direction = scale * noise(value.shape, 1)
        found = float((gradient * direction).sum())
        misses = []
        for step in (1e-3, 1e-4, 1e-5, 1e-6):
            d1, d2 = (
                float(objective({name: value + e * direction}) - objective({name: value - e * direction})) / (2 * e)
                for e in (step, 2 * step)
            )
            # the two central differences combine to fourth order: what is left is the rounding of the solve
            expected = (4.0 * d1 - d2) / 3.0
            misses.append(abs(found - expected) / abs(expected))
            if misses[-1] < 1e-6:
                break
        assert min(misses) < 1e-6, (name, found, misses)


def test_solution_is_the_same_with_and_without_gradients(small: tuple[PDE, int]) -> None:
    pde, grid = small
    problem = pde.draw(SEEDS, grid)
    tracked = {name: value.clone().requires_grad_() for name, value in inputs_of(problem).items()}
    plain = pde.solve(problem)
    for name, value in pde.solve(problem_of(problem, tracked)).items():
        assert torch.equal(value, plain[name]), name


def kept(pde: PDE, problem: Problem) -> int:
    """Numbers that autograd keeps of one solve for the backward pass; recomputed ones do not count."""
    count = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal count
        count += value.numel()
        return value

    tracked = {name: value.clone().requires_grad_() for name, value in inputs_of(problem).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        pde.solve(problem_of(problem, tracked))
    return count


def test_memory_of_the_gradient_does_not_grow_with_inner_steps(moving: tuple[PDE, int]) -> None:
    pde, grid = moving
    assert pde.clock is not None
    problem = pde.draw(SEEDS, grid)
    finer = replace(pde, clock=pde.clock.halved().halved())  # type: ignore[type-var]
    assert kept(finer, problem) == pytest.approx(kept(pde, problem), rel=0.05)
