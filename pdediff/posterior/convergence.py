"""Have the chains met, and how many independent draws are they worth: split R-hat and effective sample size."""

from __future__ import annotations

import torch
from torch import Tensor


def split_r_hat(draws: Tensor) -> Tensor:
    """Split R-hat of draws (chain, step, ...), for each trailing point; 1 where the halves of all chains agree.

    sqrt(((k - 1) / k W + B / k) / W), W the mean variance within half chains of k steps, B / k that of their means
    (Gelman et al. 2013, equation 11.4; Vehtari et al. 2021, equation 4). Good values: below 1.01, at most 1.05.
    """
    halves = _halves(draws)
    within = halves.var(1).mean(0)
    k = halves.shape[1]
    total = (k - 1) / k * within + halves.mean(1).var(0)
    # A point that never moves has met itself.
    return torch.where(within > 0, total / within, torch.ones_like(within)).sqrt()


def chain_ess(draws: Tensor) -> Tensor:
    """Effective sample size of the mean of draws (chain, step, ...), for each trailing point.

    Autocorrelations of all split chains are combined and summed in pairs while the pairs stay positive and fall
    (Geyer 1992, section 3.3; Vehtari et al. 2021, equations 10 to 13). Good values: 100 a chain for means.
    """
    halves = _halves(draws)
    c, k = halves.shape[:2]
    within, means = halves.var(1).mean(0), halves.mean(1)
    total = (k - 1) / k * within + means.var(0)
    covariance = _autocovariance(halves - means[:, None]).mean(0)
    safe = total.where(total > 0, torch.ones_like(total))
    rho = 1 - (within - covariance * k / (k - 1)) / safe
    rho[0] = 1.0
    pairs = rho[: 2 * (k // 2)].reshape(k // 2, 2, *rho.shape[1:]).sum(1)
    positive = (pairs > 0).long().cumprod(0).to(pairs)
    tau = 2 * (pairs.cummin(0).values.clamp(min=0) * positive).sum(0) - 1
    # Antithetic chains: no claim of more than log10 of their number, as of Vehtari et al. 2021, section 3.
    most = float(torch.tensor(float(c * k)).log10()) * c * k
    return (c * k / tau.clamp(min=1e-12)).clamp(max=most)


def _halves(draws: Tensor) -> Tensor:
    """Each chain as two: (2 chain, step // 2, ...), float64."""
    k = draws.shape[1] // 2
    return torch.cat([draws[:, :k], draws[:, draws.shape[1] - k :]]).double()


def _autocovariance(x: Tensor) -> Tensor:
    """sum_t x_t x_{t + lag} / k at all lags, of centred x (chain, k, ...)."""
    k = x.shape[1]
    power = torch.fft.rfft(x, n=2 * k, dim=1).abs() ** 2
    return torch.fft.irfft(power, n=2 * k, dim=1)[:, :k] / k
