"""Workloads of exponax (JAX, CPU): the same scheme, step, modes and initial states as ours, compiled as a whole.

Runs in a process of its own only. Kept in Fourier space between frames, which is its fastest way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import exponax
import jax
import jax.numpy as jnp
import numpy as np


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The run of `batch` rows, warm-up first, frames on the grid; compiled in its first call."""
    double = settings["precision"] == "float64"
    jax.config.update("jax_enable_x64", double)
    rows = np.resize(np.load(settings["initial"]), (settings["batch"], *settings["shape"]))
    kolmogorov = settings["equation"] == "kolmogorov"
    if kolmogorov:  # exponax has w = u_y - v_x and the axes (x, y); the sign of the force follows below
        rows = -np.swapaxes(rows, -1, -2)
    initial = jnp.asarray(np.ascontiguousarray(rows), dtype=jnp.float64 if double else jnp.float32)
    stepper = _stepper(settings)
    dims = initial.ndim - 1
    per_frame = round(settings["interval"] / settings["step"])

    def frame(v: Any, _: Any) -> tuple[Any, Any]:
        v = jax.lax.fori_loop(0, per_frame, lambda i, w: stepper.step_fourier(w), v)
        return v, v

    def trajectory(u: Any) -> Any:
        v = stepper._integrator._nonlinear_fun.dealias(exponax.fft(u[None], num_spatial_dims=dims))
        v = jax.lax.fori_loop(0, settings["warm_up"], lambda i, w: frame(w, None)[0], v)
        _, spectra = jax.lax.scan(frame, v, None, length=settings["frames"] - 1)
        spectra = jnp.concatenate([v[None], spectra])
        points = settings["grid"]
        return jax.vmap(lambda s: exponax.ifft(s, num_spatial_dims=dims, num_points=points))(spectra)[:, 0]

    compiled = jax.jit(jax.vmap(trajectory))

    def run() -> Any:
        u = compiled(initial).block_until_ready()
        return -jnp.swapaxes(u, -1, -2) if settings.get("as_ours") and kolmogorov else u

    return run


def _stepper(settings: Mapping[str, Any]) -> Any:
    points = settings["grid"]
    live = (points - 1) // 3  # our modes are |m| < n/3; exponax keeps |m| <= fraction * (n // 2) - 1
    common = {"dt": settings["step"], "order": 4, "dealiasing_fraction": (live + 1.5) / (points // 2)}
    if settings["equation"] == "ks":
        return exponax.stepper.KuramotoSivashinskyConservative(1, settings["length"], points, **common)
    return exponax.stepper.KolmogorovFlowVorticity(
        2,
        2.0 * np.pi,
        points,
        diffusivity=settings["viscosity"],
        drag=-settings["drag"],
        injection_mode=settings["forcing"],
        injection_scale=-1.0,
        **common,
    )
