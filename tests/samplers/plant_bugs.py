"""Plants one bug at a time in a copy of the samplers and reports which the tests find; run by hand, 10 minutes.

python tests/samplers/plant_bugs.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

BUGS = {
    "ratio upside down (sigma_t for sigma_s)": (
        "ab_pc.py",
        "of.scale(stop) / of.scale(start)",
        "of.scale(start) / of.scale(stop)",
    ),
    "weights scaled at the start level": ("field.py", "measure = of.scale(stop)", "measure = of.scale(start)"),
    "corrector without the new evaluation": ("ab_pc.py", "[i + 1, *history], STATE", "history, STATE"),
    "corrector starts from the predicted state": (
        "ab_pc.py",
        "    return Lin(dst, ((STATE, of.scale",
        '    src = "predicted" if len(nodes) > min(order, i + 1) else STATE\n    return Lin(dst, ((src, of.scale',
    ),
    "history one node short": ("ab_pc.py", "range(i, i - p, -1)", "range(i, i - max(p - 1, 1), -1)"),
    "memory slots collide": ("ab_pc.py", "node % (order + 1)", "node % order"),
    "evaluation at the wrong level": (
        "ab_pc.py",
        'Eval("denoised", src, levels[node])',
        'Eval("denoised", src, levels[max(node - 1, 0)])',
    ),
    "model output with the next level": (
        "ab_pc.py",
        "of.model(levels[node])",
        "of.model(levels[min(node + 1, len(levels) - 2)])",
    ),
    "eta once instead of squared": ("ddim.py", "(self.eta * sigma_next) ** 2", "self.eta * sigma_next**2"),
    "variance of the start level": ("ddim.py", "(self.eta * sigma_next) ** 2", "(self.eta * sigma) ** 2"),
    "eta missing in the mean": ("ddim.py", "math.sqrt(kept)", "1.0"),
    "ddpm: two noises of one step share a key": ("ddim.py", "variance, i, span))", "variance, 0, span))"),
    "sde noise without the factor 2": ("field.py", "math.expm1(-2.0 *", "math.expm1(-1.0 *"),
    "sde drift without the noise": (
        "dpm_solver_pp.py",
        "of = DataPrediction(1.0 + self.noise**2)",
        "of = DataPrediction(1.0 + 0 * self.noise)",
    ),
    "velocity without s": ("field.py", "-1.0 / sigma - 1.0 / self.s", "-1.0 / sigma - 1.0"),
    "trig with s in the wrong place": ("field.py", "-self.s / (total * sigma)", "-1.0 / (total * sigma)"),
    "trig kappa of the wrong sign": ("field.py", "return -np.ones_like(clock)", "return np.ones_like(clock)"),
    "x0 at power one in the rate": (
        "field.py",
        "return self.power * np.exp(self.power * clock)",
        "return self.power * np.exp(clock)",
    ),
    "variance for standard deviation": ("runner.py", "math.sqrt(step.variance)", "step.variance"),
    "noise not of the row": ("runner.py", "fold(self.seeds, key)", "fold(range(len(self.seeds)), key)"),
    "noise drawn anew for every step alike": ("runner.py", "fold(self.seeds, key)", "self.seeds"),
    "noise white for every prior": (
        "runner.py",
        "return self.noise.sample(",
        "return __import__('pdediff').diffusion.WhiteNoise().sample(",
    ),
    "alias of the state kept": ("runner.py", "return denoised.clone() if", "return denoised if"),
    "start written over": ("runner.py", "start[name].clone() for", "start[name] for"),
    "step number off by one": (
        "runner.py",
        "sigma = sigmas[max(count - 1, 0)]",
        "sigma = sigmas[min(count, len(sigmas) - 1)]",
    ),
    "denoised at the level before": (
        "runner.py",
        'Eval("last", STATE, plan.levels[-1])',
        'Eval("last", STATE, plan.levels[-2])',
    ),
    "start without the prior": ("sample.py", "prior.to(denoiser.device, dtype) +", ""),
    "start of conditional, not prior, covariance": ("sample.py", "denoiser.error(math.inf)", "denoiser.error(sigma)"),
    "seeds of the tile, not of the row": ("sample.py", "rows = range(first, first + tile)", "rows = range(tile)"),
    "start and steps share their seeds": ("sample.py", "Purpose.STEP, rows", "Purpose.START, rows"),
    "u grid ignores s": ("grids.py", "return _ends(s * u / (1.0 - u)", "return _ends(u / (1.0 - u)"),
    "pilot ignores the spread of the modes": (
        "pilot.py",
        "relative = weight / np.maximum(std, 1e-12 * std.max())",
        "relative = weight",
    ),
    "pilot density with the wrong power": ("pilot.py", "1.0 / (order + 1)", "float(order + 1)"),
    "order chosen by levels, not steps": ("default.py", "len(levels) - 1", "len(levels)"),
    "JSON forgets the clock": ("steps.py", 'if name != "op"}', 'if name not in ("op", "span")}'),
    "correction forgets what the predictor did": ("ab_pc.py", "- done.get(name, 0.0)) for name", ") for name"),
    "wave numbers by the largest component": ("bands.py", "squared.sqrt().round()", "squared.sqrt().floor()"),
    "hooks in the wrong order": ("runner.py", "for hook in self.hooks:", "for hook in self.hooks[::-1]:"),
    "bridge with the variance of a free path": ("brownian.py", "share * (q_right - q)", "(q - q_left)"),
    "one path for all rows": ("brownian.py", "fold(self._seeds, _FIRST_KEY + node)", "(node,) * len(self._seeds)"),
    "gradient through one evaluation only": (
        "runner.py",
        "checkpoint(self.denoiser, given,",
        "checkpoint(self.denoiser, given.detach(),",
    ),
    "tensor written though it is read later": ("plan.py", "step.dst not in later", "True"),
}


def caught(name: str) -> str:
    """Name of the first test that fails, or an empty text."""
    file, old, new = BUGS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("pdediff", "configs", "tests/samplers"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        target = root / "pdediff" / "samplers" / file
        text = target.read_text()
        if text.count(old) < 1:
            raise SystemExit(f"bug {name!r} no longer applies: {old!r} is not in {file}")
        target.write_text(text.replace(old, new))
        command = [sys.executable, "-m", "pytest", "tests/samplers", "-q", "-x", "-p", "no:cacheprovider", "--tb=no"]
        done = subprocess.run(
            command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
        )
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if done.returncode == 1 and failed else ("" if done.returncode == 0 else done.stdout[-300:])


def main() -> None:
    missed = 0
    for name in BUGS:
        found = caught(name)
        missed += not found
        print(f"{'caught' if found else 'MISSED'}  {name}  {found}", flush=True)
    print(f"{len(BUGS) - missed} of {len(BUGS)} caught")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
