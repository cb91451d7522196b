"""Fit a sampler's levels and weights to one prior, and keep the plan with what it was fitted for."""

from __future__ import annotations

from pathlib import Path

import torch

from pdediff.errors import IntegrityError
from pdediff.runtime import Runtime
from pdediff.samplers import Plan
from pdediff.samplers.tuning import tune as tune_plan
from pdediff.stages.configs import TuneConfig
from pdediff.stages.folders import file_hash, has_whole_files, output_folder, writing
from pdediff.stages.priors import content_of, load_prior
from pdediff.store import finish_folder, read_manifest, write_durably

FILES = ("plan.json", "tuned.json")


def tune(config: TuneConfig, prior: Path, root: Path, runtime: Runtime) -> Path:
    """The folder with plan.json (what `sample plan=` runs) and tuned.json (errors before and after, and their cost).

    Raises NumericalError where the reference run of the prior diverges.
    """
    identity = {
        "stage": "tune",
        "config": config.model_dump(exclude={"name"}),
        "prior": {"folder": prior.name, "content": content_of(prior)},
    }
    path = output_folder(root, "plans", config.name or prior.name.rpartition("-")[0], identity)
    if has_whole_files(path):
        return path
    loaded = load_prior(prior, runtime.torch_device)
    with torch.no_grad(), runtime.progress.bar("tune", 1) as bar:
        found = tune_plan(
            loaded.denoiser,
            config.steps,
            config.sigma_max,
            config.sigma_min,
            objective=config.objective,
            budget=config.budget,
            seed=config.seed,
        )
        before, after = found.held_out
        bar.advance(1, note=f"error {before:.1e} -> {after:.1e} on other noises")
    texts = dict(zip(FILES, (found.plan.to_json(), found.to_json()), strict=True))
    with writing(path):
        for name, text in texts.items():
            write_durably(path / name, text + "\n")
        files = {name: file_hash(path / name) for name in texts}
        finish_folder(path, {"content": found.plan.digest(), "identity": identity, "files": files})
    return path


def plan_of(folder: Path) -> tuple[Plan, str]:
    """A tuned plan and the content hash of the prior it was tuned for. Raises IntegrityError where it is damaged."""
    manifest = read_manifest(folder)
    if manifest is None or not has_whole_files(folder):
        raise IntegrityError(f"plan {folder.name} is not whole", hint="run `pdediff tune` again; it writes it again")
    return Plan.from_json((folder / "plan.json").read_text()), str(manifest["identity"]["prior"]["content"])
