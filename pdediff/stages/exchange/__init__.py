"""Sets of other suites: The Well's HDF5 and PDEBench's, in and out, with the checks of `generate` on the way in."""

from pdediff.stages.exchange.exporting import export
from pdediff.stages.exchange.importing import ImportConfig, import_file, settings

__all__ = ["ImportConfig", "export", "import_file", "settings"]
