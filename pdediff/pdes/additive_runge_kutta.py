"""An additive Runge-Kutta method of order 4: explicit for transport, implicit and L-stable for stiff local exchange."""

from __future__ import annotations

import torch
from torch import Tensor

# ARK4(3)6L[2]SA of Kennedy and Carpenter (2003), appendix C.
DIAGONAL = 0.25
NODES = (0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0)
EXPLICIT: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 2,),
    (13861 / 62500, 6889 / 62500),
    (-116923316275 / 2393684061468, -2731218467317 / 15368042101831, 9408046702089 / 11113171139209),
    (
        -451086348788 / 2902428689909,
        -2682348792572 / 7519795681897,
        12662868775082 / 11960479115383,
        3355817975965 / 11060851509271,
    ),
    (
        647845179188 / 3216320057751,
        73281519250 / 8382639484533,
        552539513391 / 3454668386233,
        3354512671639 / 8306763924573,
        4040 / 17871,
    ),
)
IMPLICIT: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 4,),
    (8611 / 62500, -1743 / 31250),
    (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
    (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
    (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211),
)
WEIGHTS = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4)
REAL_LIMIT = 4.24
"""Largest h |lambda| of the explicit part on the negative real axis; 4.0 on the imaginary axis."""


def combined(start: Tensor, rates: list[Tensor], coefficients: tuple[float, ...], factor: float) -> Tensor:
    """start + factor sum_j coefficients_j rates_j."""
    for rate, coefficient in zip(rates, coefficients, strict=True):
        if coefficient != 0.0:
            start = torch.add(start, rate, alpha=factor * coefficient)
    return start
