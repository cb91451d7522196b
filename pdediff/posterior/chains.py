"""Markov chains side by side: burn-in, one adapted step, and what tells whether they have met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.anchor import posterior_anchor
from pdediff.posterior.base import Draws, independent
from pdediff.posterior.convergence import chain_ess, split_r_hat
from pdediff.posterior.latent import Latent, Reference, likelihood_gradient, log_likelihood
from pdediff.types import NonNegativeInt, PositiveInt, Purpose, derive_many, fold, normal, uniform

State = tuple[Tensor, ...]
_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Likelihood:
    """log p(y | x) as a function of the whitened variable xi (k, size)."""

    latent: Latent
    observation: Observation

    def value(self, xi: Tensor) -> Tensor:
        """(k,)."""
        return log_likelihood(self.observation, self.latent.field(xi))

    def gradient(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """`value` and its gradient in xi."""
        found, slope = likelihood_gradient(self.observation, self.latent.field(xi))
        return found.nan_to_num(nan=-torch.inf), self.latent.root.gather(slope)


class ChainKernel(Protocol):
    """A Metropolis proposal; state[0] is xi, state[1] its log likelihood, every tensor has one row a chain."""

    acceptance: ClassVar[float]
    evaluations: ClassVar[float]

    def start(self, likelihood: Likelihood, xi: Tensor) -> State: ...

    def propose(
        self, likelihood: Likelihood, reference: Reference, state: State, noise: Tensor, beta: Tensor
    ) -> tuple[State, Tensor]:
        """Proposed states and log acceptance ratios; beta in (0, 1] is the share of fresh noise from the reference."""
        ...


@dataclass(frozen=True)
class Chains:
    """`chains` Markov chains of burn_in + samples * thin steps in the whitened variable of the prior.

    `laplace` starts in the Gauss-Newton approximation at the mode and makes three moves relative to it, which draws
    linear problems independently, and one relative to the prior, whose tails are as heavy as the posterior's; the
    operator needs an adjoint. `prior` starts and moves relative to the prior alone and only evaluates. The step of
    each of these moves is adapted by Robbins and Monro in the burn-in only, one for all chains, so that what follows
    is a Markov chain (Andrieu and Thoms 2008, algorithm 4). Draw i is a fixed state of a fixed chain of run i //
    (chains * samples): draws do not depend on how many are asked for.

    Good values: `laplace`, 16 chains; in the diagnostics `r_hat` (largest of all points) below 1.05 and `chain_ess`
    (smallest) above 100. Chains that all start at one mode of several do not tell: compare with `prior`.
    """

    chains: PositiveInt = 16
    burn_in: NonNegativeInt = 100
    samples: PositiveInt = 32
    thin: PositiveInt = 6
    reference: Literal["laplace", "prior"] = "laplace"

    def draws(self, kernel: ChainKernel, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        """n draws of as many runs as they need."""
        observation = independent(observation)
        likelihood, pool = Likelihood(Latent.of(prior), observation), self.chains * self.samples
        references, runs, found = self.references(prior, likelihood), -(-n // pool), []
        told = {"r_hat": 1.0, "chain_ess": 0.0, "acceptance": 0.0, "beta": 0.0}
        for run in range(runs):
            kept, acceptance, beta = self.run(kernel, likelihood, references, derive_many(seed, Purpose.STEP, [run])[0])
            told["r_hat"] = max(told["r_hat"], float(split_r_hat(kept).max()) if self.samples > 3 else float("inf"))
            told["chain_ess"] += float(chain_ess(kept).min()) if self.samples > 3 else 0.0
            told["acceptance"] += acceptance / runs
            told["beta"] += beta / runs
            found.append(kept[:, _spread(self.samples)].transpose(0, 1).flatten(0, 1))
        calls = runs * self.chains * (1 + self.burn_in + self.samples * self.thin) * kernel.evaluations
        told |= {"denoiser_calls": 0.0, "network_vjps": 0.0, "forward_calls": calls / n}
        return Draws.equal(torch.cat(found)[:n].to(prior.dtype), told)

    def references(self, prior: Denoiser, likelihood: Likelihood) -> tuple[Reference, ...]:
        """What the chains move relative to, in turn; they start in the first."""
        latent = likelihood.latent
        if self.reference == "prior":
            return (Reference.prior(latent),)
        at_mode = Reference.laplace(latent, *posterior_anchor(prior, likelihood.observation))
        return at_mode, at_mode, at_mode, Reference.prior(latent)

    def run(
        self, kernel: ChainKernel, likelihood: Likelihood, references: tuple[Reference, ...], seed: int
    ) -> tuple[Tensor, float, float]:
        """Fields (chain, sample, channel, *space) of one run; acceptance and step of the first reference."""
        seeds, size = derive_many(seed, Purpose.START, range(self.chains)), likelihood.latent.size
        like, count = likelihood.latent.mean, len(references)
        state = kernel.start(
            likelihood, references[0].coloured(normal(fold(seeds, 0), (size,), dtype=torch.float64).to(like))
        )
        log_beta, accepted, kept = torch.full((count,), -0.5).to(like), torch.zeros(count).to(like), []
        for step in range(self.burn_in + self.samples * self.thin):
            if step % _BLOCK == 0:
                noise = normal(fold(seeds, 2 * step + 1), (_BLOCK, size), dtype=torch.float64).to(like)
                coin = uniform(fold(seeds, 2 * step + 2), (_BLOCK,)).to(like).log()
            turn = step % count
            moved, ratio = kernel.propose(
                likelihood, references[turn], state, noise[:, step % _BLOCK], log_beta[turn].exp()
            )
            taken = coin[:, step % _BLOCK] < ratio
            state = tuple(torch.where(_rows(taken, new), new, old) for new, old in zip(moved, state, strict=True))
            if step < self.burn_in:
                chance = ratio.nan_to_num(nan=-torch.inf).exp().clamp(max=1).mean()
                gain = (step // count + 1) ** -0.6 * (chance - kernel.acceptance)
                log_beta[turn] = (log_beta[turn] + gain).clamp(max=0)
                continue
            accepted[turn] += taken.double().mean()
            if (step - self.burn_in) % self.thin == self.thin - 1:
                kept.append(likelihood.latent.field(state[0]))
        turns = len(range(-self.burn_in % count, self.samples * self.thin, count))
        return torch.stack(kept, 1), float(accepted[0]) / max(turns, 1), float(log_beta[0].exp())


def _rows(taken: Tensor, like: Tensor) -> Tensor:
    return taken.reshape(-1, *([1] * (like.dim() - 1)))


def _spread(samples: int) -> list[int]:
    """0 ... samples - 1 in bit-reversed order: the first few lie far apart on the chain."""
    bits = max(samples - 1, 1).bit_length()
    order = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits)]
    return [i for i in order if i < samples]
