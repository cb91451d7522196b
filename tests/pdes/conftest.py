"""Small equations that the tests of this room share."""

from __future__ import annotations

import pytest

from pdediff.pdes import PDE, Darcy, KolmogorovFlow, KuramotoSivashinsky

SMALL: dict[str, tuple[PDE, int]] = {
    "two_phase": (Darcy(), 16),
    "log_normal": (Darcy(permeability="log_normal"), 32),
    "ks": (KuramotoSivashinsky(length=22.0, frames=4, warm_up=10), 32),
    "kolmogorov": (KolmogorovFlow(viscosity=1e-2, frames=3, warm_up=2), 32),
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> tuple[PDE, int]:
    """An equation and a grid on which it takes milliseconds."""
    return SMALL[request.param]
