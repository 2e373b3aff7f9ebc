# mypy: disable-error-code="no-any-return"
"""What stands around the two models of DTLN: windows, spectra, and the sum of blocks that overlap."""

import torch
from torch import Tensor, nn


class Window(nn.Module):
    """The last 512 samples: 128 new ones behind 384 older ones."""

    def forward(self, audio: Tensor, older: Tensor | None = None) -> tuple[Tensor, Tensor]:
        older = audio.new_zeros(audio.shape[0], 384) if older is None else older
        block = torch.cat([older, audio], 1)
        return block, block[:, 128:]


class OverlapAdd(nn.Module):
    """The sum of blocks of 512 samples that begin 128 apart: a step gives the 128 that later blocks do not change."""

    def forward(self, block: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pending = block.new_zeros(block.shape[0], 384) if pending is None else pending
        total = block + nn.functional.pad(pending, (0, 128))
        return total[:, :128], total[:, 128:]


def spectrum(block: Tensor) -> dict[str, Tensor]:
    """Return the magnitude of a block's spectrum, and the spectrum as two tensors: graphs have no complex numbers."""
    bins = torch.fft.rfft(block)
    return {"magnitude": bins.abs(), "real": bins.real, "imag": bins.imag}


def masked(mask: Tensor, real: Tensor, imag: Tensor) -> Tensor:
    """Return the block whose spectrum is multiplied by a mask."""
    return torch.fft.irfft(torch.complex(mask * real, mask * imag), n=512)
