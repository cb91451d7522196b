"""One training from start to end, to compare others with."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import train_recipe as recipe

from pdediff.train import fit


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    network = recipe.small_unet()
    result = fit(network, recipe.denoising, recipe.SIZE, recipe.SHORT, run, meta={"name": "whole"})
    return run, network, result
