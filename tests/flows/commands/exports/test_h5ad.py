"""An AnnData file that is larger than memory."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CELLS, FEATURES = 500, 1000  # of a part: 2 MB


def peak_of_writing(path: Path, parts: int) -> int:
    """Write a file, and return the most bytes that were held meanwhile."""
    from flows.commands.exports.h5ad import write_h5ad

    def reader(value: int) -> Callable[[], NDArray[np.float32]]:
        return lambda: np.full((CELLS, FEATURES), value, np.float32)

    names = [str(i) for i in range(CELLS * parts)]
    tracemalloc.start()
    write_h5ad(
        path,
        [(CELLS, reader(i)) for i in range(parts)],
        taps={f"tap:{i}": "tap" for i in range(FEATURES)},
        names=names,
        rows=pa.table({"image_id": names}),
        logits=np.zeros((len(names), 2), np.float32),
        about={},
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_features_are_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    peak_of_writing(tmp_path / "warm.h5ad", 1)
    small, large = (peak_of_writing(tmp_path / f"{parts}.h5ad", parts) for parts in (3, 15))
    assert large - small < 3 * CELLS * FEATURES * 4  # and 12 such parts more were written
    read = anndata.read_h5ad(tmp_path / "15.h5ad", backed="r")
    assert read.X[::CELLS, 0].tolist() == list(range(15))
