"""All tuners in a row: pick, search the nodes of several candidates, fit the weights of the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pdediff.diffusion import Denoiser
from pdediff.samplers.ab_pc import PC
from pdediff.samplers.pilot import Basis, Objective
from pdediff.samplers.tuning.engine import Descent, Tuned, told
from pdediff.samplers.tuning.nodes import Nodes
from pdediff.samplers.tuning.picker import Candidate, best_of, candidates
from pdediff.samplers.tuning.pilots import Pilots
from pdediff.samplers.tuning.weights import Weights, fit_weights


def tune(
    denoiser: Denoiser,
    steps: int,
    sigma_max: float,
    sigma_min: float,
    *,
    objective: Objective = "rms",
    budget: int = 10_000,
    seed: int = 0,
    basis: Basis = "fourier",
) -> Tuned:
    """A plan of `steps` evaluations for this prior: `pick`, then a race of node searches, then `fit_weights`.

    `budget` is in calls of the denoiser on 64 rows, once for each prior and number of steps; the reference runs and the
    pick are always paid, and weights are fitted only where they are few enough. Never worse on the training noises than
    `Default` on its own grid; `gain` tells by how much it is better on others. The result is plain data: store it
    with the prior.

    Good values: 4000 calls at 5 steps and 6000 at 10 give most of the gain; 2000 at 10 are spent on the pick alone.
    `ConfigError` as `Pilots` and `pick` raise it.
    """
    pilots = Pilots(denoiser, sigma_max, sigma_min, objective=objective, seed=seed, basis=basis)
    ranked = candidates(pilots, steps)
    picked = best_of(pilots, ranked, 0)
    left = budget - pilots.evaluations
    # A third for the weights, if that is enough for them.
    weighed = 3 * Weights(picked.plan).size * picked.plan.nfe < left
    searched = race(pilots, ranked, left * 2 // 3 if weighed else left).since(picked)
    if not weighed:
        return searched
    return fit_weights(pilots, searched.plan, searched.sampler, budget=budget - pilots.evaluations).since(searched)


@dataclass(frozen=True)
class _Runner:
    """A candidate on its way."""

    family: Nodes
    descent: Descent


def race(pilots: Pilots, ranked: list[Candidate], budget: int) -> Tuned:
    """The best of node searches from the best grid of each parameterisation and order.

    The candidate that picks best is often not the one that tunes best, so all start, as many as half of the budget
    affords; after one measured Jacobian each the best four go on, after two more the best one until nothing is gained.
    """
    first = pilots.evaluations
    heats = {one.sampler: one for one in reversed(ranked)}
    order = sorted(heats.values(), key=lambda one: one.error)
    cost = Nodes(order[0].sampler, order[0].levels, _names(order[0].sampler)).size + 3
    afford = max(1, budget // (2 * cost * (len(order[0].levels) - 1)))
    runners = [_runner(pilots, one) for one in order[:afford] if math.isfinite(one.error)]
    favourite = runners[0]
    for rounds, left in ((1, 4), (2, 1), (30, 1)):
        for runner in runners:
            runner.descent.spend(budget - (pilots.evaluations - first), rounds)
        runners = sorted(runners, key=lambda runner: runner.descent.best[0])[:left]
    # The held-out noises decide, but never for a plan that is worse than the pick on the training noises.
    winner = favourite if runners[0].descent.best[1] > order[0].error else runners[0]
    family, descent = winner.family, winner.descent
    return descent.tuned(told(family.moved(descent.best[3])), pilots.evaluations - first)


def _runner(pilots: Pilots, one: Candidate) -> _Runner:
    family = Nodes(one.sampler, one.levels, _names(one.sampler))
    return _Runner(family, Descent(pilots, family))


def _names(sampler: PC) -> tuple[str, ...]:
    """Fields v and F depend on s."""
    return ("s",) if sampler.field in ("v", "F") else ()
