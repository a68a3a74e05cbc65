"""Say what a device does for the extraction of features.

`tasks.network.processor` is the processor's way, by OpenVINO, and `tasks.network.gpu` the GPU's, by
PyTorch. `tasks.network.inference.ready` chooses between them.
"""

from collections.abc import Callable
from typing import Protocol

from tasks.network.spec import Computed
from tasks.types import Pixels


class Device(Protocol):
    """A network that is compiled for a device, ready for many passes by any thread."""

    @property
    def batch(self) -> int:
        """Return a good number of images per pass."""

    @property
    def threads(self) -> int:
        """Return the number of reading threads that keep the device busy."""

    def begin(self, pixels: Pixels) -> Callable[[], Computed]:
        """Begin a pass over images; the function that is returned waits for its outputs.

        Args:
            pixels: uint8 (B, side, side, 3), red, green and blue, for any B >= 1.

        The outputs are the taps by name, each float32 (B, d), and the logits, float32 (B, C). They
        belong to the caller: later passes leave them as they are. An image's outputs do not depend
        on the other images of its pass beyond rounding.
        """
