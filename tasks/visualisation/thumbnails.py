"""Draw a cell as small as pages show it."""

import io

from PIL import Image

THUMBNAIL = 128  # pixels of the longer side at most
QUALITY = 85


def thumbnail(image: Image.Image) -> bytes:
    """Encode an image as a WebP file, reduced if it is larger than `THUMBNAIL`."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    small.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
