"""Networks: `UNet` and `FNO` are hyper-parameters, `build(channels, spatial, seed)` makes the `nn.Module`."""

from pdediff.models.fno import FNO
from pdediff.models.unet import UNet

__all__ = ["FNO", "UNet"]
