"""Screening as a competent user of PyTorch writes it, with everything in memory.

A Dataset that decodes with Pillow, a DataLoader with two workers, forward hooks on the taps, and
scikit-learn's covariance for the distances.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

BATCH, WORKERS = 64, 2


class Cells(Dataset[Tensor]):
    """Images in files, or in an archive that each worker opens once."""

    def __init__(self, names: list[str], archive: str | None, side: int) -> None:
        self.names, self.archive = names, archive
        self.opened: zipfile.ZipFile | None = None
        self.transform = transforms.Compose(
            [transforms.Resize((side, side)), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(io.BytesIO(self._read(self.names[row]))) as image:
            pixels: Tensor = self.transform(image.convert("RGB"))
        return pixels

    def _read(self, name: str) -> bytes:
        if self.archive is None:
            return Path(name).read_bytes()
        self.opened = self.opened or zipfile.ZipFile(self.archive)
        return self.opened.read(name)


def dataset(uris: list[str], side: int) -> Cells:
    """The images of a manifest: ``file://`` URLs, or members of one zip archive."""
    if not uris[0].startswith("zip://"):
        return Cells([uri.removeprefix("file://") for uri in uris], None, side)
    names = [uri.removeprefix("zip://").partition("::")[0] for uri in uris]
    return Cells(names, uris[0].partition("::")[2].removeprefix("file://"), side)


class Scorer:
    """The distance of a tap's features to the nearest class."""

    def __init__(self, features: NDArray[np.float32], labels: NDArray[np.int8]) -> None:
        self.means = np.stack([features[labels == c].mean(axis=0) for c in np.unique(labels)])
        centred = features - self.means[labels]
        self.precision = LedoitWolf(assume_centered=True).fit(centred).precision_

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        distances = []
        for mean in self.means:
            centred = features - mean
            distances.append(((centred @ self.precision) * centred).sum(axis=1))
        return np.asarray(np.min(distances, axis=0))


class Screener:
    """A network with hooks, a loader whose workers stay, and a scorer for each tap."""

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, nn.Module],
        scorers: dict[str, Scorer],
        cells: Cells,
    ) -> None:
        self.network, self.scorers = network.eval(), scorers
        self.loader = DataLoader(
            cells,
            BATCH,
            num_workers=WORKERS,
            persistent_workers=True,
            multiprocessing_context="forkserver",
        )
        self.pooled: dict[str, Tensor] = {}
        for tap, module in taps.items():
            module.register_forward_hook(self._hook(tap))

    def _hook(self, tap: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.pooled[tap] = output.mean(dim=(2, 3))

        return keep

    def batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Taps and probabilities, batch by batch."""
        with torch.no_grad():
            for pixels in self.loader:
                logits = self.network(pixels)
                yield dict(self.pooled), logits.softmax(dim=1)

    def warm_up(self) -> None:
        """Start the workers, and run one batch."""
        next(self.batches())

    def screen(self) -> dict[str, NDArray[np.float32]]:
        """Distances (n,) by tap, and ``probabilities`` (n, C)."""
        found = list(self.batches())
        scores = {
            tap: scorer(torch.cat([pooled[tap] for pooled, _ in found]).numpy())
            for tap, scorer in self.scorers.items()
        }
        return scores | {"probabilities": torch.cat([chances for _, chances in found]).numpy()}
