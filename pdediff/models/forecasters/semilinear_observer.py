"""A neural observer: a semilinear prediction, and a correction by whatever was read of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pdediff.models.forecasters.assembly import assembled, prepare
from pdediff.models.forecasters.base import Dynamics, Frames, labels
from pdediff.models.network import Network
from pdediff.models.semigroup import Semigroup
from pdediff.types import Fraction, NonNegative, PositiveInt, Purpose, Seeds, derive, generator, normal

KNEE = 0.05
"""Error, in units of the differences, below which it counts in absolute terms, above in relative ones."""


class ObserverNetwork(nn.Module):
    """The parts of an observer: S, G and K. Called, it is G."""

    def __init__(self, semigroup: nn.Module, prediction: nn.Module, correction: nn.Module) -> None:
        super().__init__()
        self.semigroup, self.prediction, self.correction = semigroup, prediction, correction

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """G, in units of the differences."""
        return self.prediction(x, label)


class Assimilated(NamedTuple):
    """States before and after the readings of each frame, (batch, time, channel, *space) in normalised units."""

    predicted: Tensor
    corrected: Tensor


@dataclass(frozen=True)
class SemilinearObserver:
    """u_{k|k} = u + r K(u, (y - H u) / r, mask; log r), u = u_{k|k-1} = S u_{k-1|k-1} + d G(u_{k-1|k-1}).

    After Singh, Borsoi, Erdogmus and Imbiriba 2024 (NODA): an observer of a semilinear equation. S is diagonal in
    Fourier space, found mode by mode from the training frames; G and K are two networks of one config, d the size of
    differences. Readings are fields with a mask; r is the root mean square of those of y - H u that there are, so that
    without readings nothing is corrected, and K knows from r how far off the state is. Trained on windows of `unroll`
    further frames from a poor start, half of them from the mean, half from the truth plus noise: mean log(1 + e / 0.05)
    of the root mean square errors e, in units of d, of predictions, of corrections and of one step from the truth.
    Readings in training: sensors at every `spacing`-th point along each axis, shifted at random, of which a share of up
    to `missing` is not there, and up to `blank` of the frames are not; errors with standard deviation `noise`.
    Good values: unroll 6; `modes` half the grid or more; what the readings will be like, `missing` and `blank` at the
    worst that is to come.
    """

    unroll: PositiveInt = 6
    modes: PositiveInt = 32
    spacing: PositiveInt = 4
    missing: Fraction = 0.5
    blank: Fraction = 0.6
    noise: NonNegative = 0.05

    stochastic: ClassVar[bool] = False

    @property
    def history(self) -> int:
        """Frames that a prediction sees."""
        return 1

    @property
    def horizon(self) -> int:
        """Frames of a training window behind its history."""
        return self.unroll

    @property
    def calls(self) -> float:
        """Network calls for one frame of a forecast."""
        return 1.0

    def inputs(self, channels: int) -> int:
        """Input channels of G."""
        return channels

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """Errors of the predicted and corrected states of a window and of one step, (batch,)."""
        readings, mask = self.read(window, seed)
        found = self.assimilate(dynamics, self._poor(window[:, 0], seed), readings, mask, conditions)
        step = self._predicted(dynamics, window[:, -2], conditions)
        errors = [found.corrected - window, found.predicted[:, 1:] - window[:, 1:], (step - window[:, -1])[:, None]]
        d = dynamics.difference.to(window)
        d = d.unsqueeze(d.dim() + 2 - window.dim())  # of each frame, whether or not rows have one each
        sizes = [(e / d).flatten(2).square().mean(2) for e in errors]
        # relative: the first frames, wrong by as much as the field, would else drown what comes after the spin-up
        return torch.stack([torch.log1p((s + 1e-12).sqrt() / KNEE).mean(1) for s in sizes]).mean(0)

    def step(
        self, dynamics: Dynamics, history: Frames, conditions: Tensor, seeds: Seeds, progress: float = 0.0
    ) -> Tensor:
        """The predicted next frame, the same for all seeds."""
        return self._predicted(dynamics, history[:, -1], conditions)

    def assimilate(
        self, dynamics: Dynamics, first: Tensor, readings: Frames, mask: Tensor, conditions: Tensor
    ) -> Assimilated:
        """Predict and correct from the guess `first` (batch, channel, *space) of the first frame, normalised units.

        `readings` (batch, time, channel, *space) count where `mask`, of the same shape, is true.
        """
        predicted, corrected = [], []
        for k in range(readings.shape[1]):
            predicted.append(first if k == 0 else self._predicted(dynamics, corrected[-1], conditions))
            corrected.append(self.correct(dynamics, predicted[-1], readings[:, k], mask[:, k], conditions))
        return Assimilated(torch.stack(predicted, 1), torch.stack(corrected, 1))

    def correct(self, dynamics: Dynamics, x: Tensor, y: Tensor, mask: Tensor, conditions: Tensor) -> Tensor:
        """The state after the readings of one frame."""
        innovation = torch.where(mask, y - x, torch.zeros_like(x))
        square, count = innovation.detach().flatten(1).square().sum(1), mask.flatten(1).sum(1)
        r = (square / count.clamp(min=1)).sqrt()
        level = r.clamp(min=1e-6)
        shape = (-1, *(1,) * (x.dim() - 1))
        seen = torch.cat((x, innovation / level.reshape(shape), mask.to(x)), 1)
        return x + r.reshape(shape) * _parts(dynamics).correction(seen, labels(level.log() / 4, conditions))

    def read(self, window: Frames, seed: int) -> tuple[Frames, Tensor]:
        """Readings of a window and their mask, as training draws them."""
        n, time, _, *space = window.shape
        draw = generator(derive(seed, Purpose.SENSORS))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=draw)

        mask = torch.ones(n, 1, 1, *space, dtype=torch.bool)
        for axis, size in enumerate(space):
            shape = (1, 1, 1, *(size if a == axis else 1 for a in range(len(space))))
            offset = torch.randint(self.spacing, (n,), generator=draw).reshape(n, *(1,) * (2 + len(space)))
            mask = mask & ((torch.arange(size).reshape(shape) - offset) % self.spacing == 0)
        wide = (n, 1, 1, *(1,) * len(space))
        there = uniform(*window.shape) >= self.missing * uniform(*wide)
        frame = uniform(n, time, 1, *(1,) * len(space)) >= self.blank * uniform(*wide)
        eps = normal((derive(seed, Purpose.MEASUREMENT),), window.shape, dtype=window.dtype)[0].to(window.device)
        return window + self.noise * eps, (mask & there & frame).to(window.device)

    def _poor(self, truth: Tensor, seed: int) -> Tensor:
        """Guesses of a first frame: the mean, or the truth plus noise of any size up to that of the field."""
        draw = generator(derive(seed, Purpose.START))
        shape = (len(truth), *(1,) * (truth.dim() - 1))
        keep = (torch.rand(shape, generator=draw) < 0.5).to(truth)
        level = 10 ** (-2 * torch.rand(shape, generator=draw)).to(truth)
        eps = normal((derive(seed, Purpose.STEP),), truth.shape, dtype=truth.dtype)[0].to(truth.device)
        return keep * (truth + level * eps)

    def _predicted(self, dynamics: Dynamics, x: Tensor, conditions: Tensor) -> Tensor:
        parts, given = _parts(dynamics), labels(conditions.new_zeros(len(conditions)), conditions)
        return dynamics.advanced(parts.semigroup(x), parts.prediction(x, given))


def _parts(dynamics: Dynamics) -> ObserverNetwork:
    if not isinstance(dynamics.network, ObserverNetwork):
        raise TypeError(f"SemilinearObserver needs an ObserverNetwork, not {type(dynamics.network).__name__}")
    return dynamics.network


@assembled.register
def _(
    forecaster: SemilinearObserver,
    network: Network,
    channels: int,
    spatial: int,
    seed: int,
    *,
    inputs: int,
    labels: int,
) -> nn.Module:
    correction = network.build(channels, spatial, derive(seed, Purpose.WEIGHTS, 1), inputs=3 * channels, labels=labels)
    prediction = network.build(channels, spatial, seed, inputs=inputs, labels=labels)
    return ObserverNetwork(Semigroup(channels, forecaster.modes, spatial), prediction, correction)


@prepare.register
def _(forecaster: SemilinearObserver, module: nn.Module, frames: Tensor) -> None:
    assert isinstance(module, ObserverNetwork)
    assert isinstance(module.semigroup, Semigroup)
    module.semigroup.fit(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
