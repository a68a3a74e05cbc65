"""Read screened images again, and what surrounds them, to show them to a person."""

from tasks.images import geometry
from tasks.images.access.files import ChangedError
from tasks.images.manifest import Region
from tasks.images.opened_slides import open_picture, read_region
from tasks.images.regions import Found, ImageRef, find
from tasks.types import Pixels


def find_unchanged(ref: ImageRef, image_id: str) -> Found:
    """Find an image of a known digest; ChangedError if it is another image by now."""
    image = find(ref)
    if image.image_id.hex() != image_id:
        raise ChangedError("the file was changed since it was screened")
    return image


def read_around(source: str, region: Region, more: int) -> tuple[Pixels, Region]:
    """Read a region with ``more`` pixels to each side, within its source, RGB (h, w, 3).

    Return the region that was read, too; ``more`` is in pixels of the source's full size.
    """
    picture = open_picture(source)
    wide = Region(*geometry.grown(region[:4], more, (picture.width, picture.height)), region.level)
    return read_region(source, wide), wide
