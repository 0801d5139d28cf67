"""One tensor of a model as numpy sees it; the types of a checkpoint are more than numpy's. Never imports torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor in the type it is stored in; a bfloat16 as its two bytes. Often a view of the file: nobody writes."""

    stored: npt.NDArray[Any]
    is_bfloat16: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def float32(self) -> npt.NDArray[np.float32]:
        """Return the values in C order; a copy only where the file has another type."""
        if self.is_bfloat16:
            return (self.stored.astype(np.uint32) << 16).view(np.float32)
        return np.require(self.stored, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
