"""Settings of diffusers and azula that suite `samplers` runs, as plain data: this file loads neither of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Settings = dict[str, Mapping[str, Any]]

GRIDS: dict[str, dict[str, Any]] = {
    "": {},
    " karras": {"use_karras_sigmas": True},
    " uniform lambda": {"use_exponential_sigmas": True},
}
MIN: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
DPM, SINGLE, UNIPC = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"


def diffusers_settings() -> Settings:
    """Name of each row -> scheduler and its options; only clipping, which no field should meet, is switched off."""
    found = dict(_fixed())
    for order in (2, 3):
        of_order: dict[str, Any] = {"solver_order": order}
        found |= _with_grids(f"DPM++ multistep {order}", DPM, of_order)
        found |= _with_grids(f"DPM++ singlestep {order}", SINGLE, of_order)
        found |= _with_grids(f"UniPC-{order} bh2", UNIPC, of_order)
        found |= _with_grids(f"UniPC-{order} bh1", UNIPC, of_order | {"solver_type": "bh1"})
        eps = {"algorithm_type": "dpmsolver", **GRIDS[" uniform lambda"], **MIN}
        found[f"DPM (eps) multistep {order} uniform lambda -> min"] = _row(DPM, of_order | eps)
        for grid, options in GRIDS.items():
            found[f"DEIS-{order}{grid}"] = _row("DEISMultistepScheduler", of_order | options)
    for name in ("Euler", "Heun", "LMS"):
        for grid, options in GRIDS.items():
            found[f"{name}{grid}"] = _row(f"{name}DiscreteScheduler", options)
    return found


def azula_settings() -> Settings:
    """Name of each row -> sampler and schedule: equal steps in log rho, and in the time of the straight flow."""
    found: Settings = {}
    for grid, schedule in (("uniform lambda", "VESchedule"), ("flow time", "RectifiedSchedule")):
        for name in ("Euler", "Heun"):
            found[f"azula {name} {grid}"] = {"sampler": f"{name}Sampler", "schedule": schedule, "options": {}}
        for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
            for order in (2, 3):
                options = {"order": order}
                found[f"azula {name}{order} {grid}"] = {
                    "sampler": f"{name}Sampler",
                    "schedule": schedule,
                    "options": options,
                }
    return found


def _row(scheduler: str, options: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
    return {"scheduler": scheduler, "options": dict(options), **more}


def _fixed() -> Iterator[tuple[str, Mapping[str, Any]]]:
    plms = {"skip_prk_steps": True}
    yield "DDIM", _row("DDIMScheduler", {"clip_sample": False})
    trailing = {"clip_sample": False, "timestep_spacing": "trailing", "set_alpha_to_one": False}
    yield "DDIM trailing -> min", _row("DDIMScheduler", trailing)
    yield "PNDM (PRK start)", _row("PNDMScheduler", {}, least=4)  # with fewer steps it has no multistep part
    yield "PNDM (PLMS)", _row("PNDMScheduler", plms)
    yield "PNDM (PLMS) trailing", _row("PNDMScheduler", plms | {"timestep_spacing": "trailing"})


def _with_grids(name: str, scheduler: str, options: Mapping[str, Any]) -> Settings:
    """To zero (its default) and to the smallest level of the table."""
    return {
        f"{name}{grid}{end}": _row(scheduler, {**options, **grid_options, **end_options})
        for grid, grid_options in GRIDS.items()
        for end, end_options in (("", {}), (" -> min", MIN))
    }
