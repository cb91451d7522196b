"""Networks: `UNet` and its like are hyper-parameters, `build(channels, spatial, seed)` makes the `nn.Module`."""

from pdediff.models.dilated_resnet import DilatedResNet
from pdediff.models.dymixop import DyMixOp
from pdediff.models.fno import FNO, TFNO
from pdediff.models.network import Network
from pdediff.models.scot import ScOT
from pdediff.models.unet import UNet
from pdediff.models.uno import UNO

__all__ = ["FNO", "TFNO", "UNO", "DilatedResNet", "DyMixOp", "Network", "ScOT", "UNet"]
