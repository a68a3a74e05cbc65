"""The pixels of a small slide, and what is said of one that cannot be read."""

import pickle

import numpy as np
import pytest
from PIL import Image

from tasks.images.decoding import BadImageError
from tasks.images.opened_slides import open_slide

_COARSE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(_COARSE).resize((900, 700)))


def reason(uri: str, says: str) -> str:
    """Return the reason of a refusal that matches, and that keeps its words between processes."""
    with pytest.raises(BadImageError, match=says) as caught:
        open_slide(uri).read(0, 0, 500, 500)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value.reason
