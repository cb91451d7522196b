"""One training loop for every network: `fit(network, loss, size, config, run)`, resumable to the bit."""

from pdediff.train.loop import FitResult, Loss, fit
from pdediff.train.schedule import FitConfig, Optimiser, Order, Supervision, ema_decay, learning_rate

__all__ = [
    "FitConfig",
    "FitResult",
    "Loss",
    "Optimiser",
    "Order",
    "Supervision",
    "ema_decay",
    "fit",
    "learning_rate",
]
