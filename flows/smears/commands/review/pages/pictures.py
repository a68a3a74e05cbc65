"""Serve pictures of single cells, and the files that pages need."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from flows.smears.commands.review.session import Session
from tasks.images import opened_slides, regions
from tasks.images.access.files import SourceError
from tasks.images.decoding import BadImageError
from tasks.images.geometry import TRAINING_DIAMETER
from tasks.images.manifest import Region
from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.visualisation import overlay, page

FILES = Path(__file__).parents[1] / "templates"
SEEN, BAR = 36.0, 5.0  # microns: the side of a cell's surroundings, and the bar on them
BEYOND = (200, 200, 200)  # where a photograph ends
SENT = {
    **dict.fromkeys(("bench.css", "bench.js", "view.js"), FILES),
    **dict.fromkeys(("viewer.css", "viewer.js", "openseadragon.min.js"), page.VIEWER),
}


class PicturePages:
    """The pictures of a session's cells."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._picture = lru_cache(maxsize=512)(self._read_picture)

    def routes(self) -> list[Route]:
        """List the addresses of pictures and files."""
        return [
            Route("/files/{name}", self.file, methods=["GET"]),
            Route("/picture/{image_id}", self.picture, methods=["GET"]),
            Route("/field/{image_id}", self.field, methods=["GET"]),
        ]

    def width(self, image_id: str) -> int:
        """Return the width of a cell's image in pixels; BadImageError says why it has none."""
        return self._picture(image_id)[1]

    def picture(self, request: Request) -> Response:
        """Send the image of a cell."""
        return self._image(lambda image_id: self._picture(image_id)[0], request)

    def field(self, request: Request) -> Response:
        """Send the cell within its field."""
        return self._image(self._read_field, request)

    def file(self, request: Request) -> Response:
        """Send the style or the script."""
        name = request.path_params["name"]
        if name not in SENT:
            raise HTTPException(404)
        return FileResponse(SENT[name] / name)

    def _image(self, read: Any, request: Request) -> Response:
        image_id = request.path_params["image_id"]
        try:
            content = read(image_id)
        except (BadImageError, SourceError, OSError) as error:
            return Response(f"{error}\n", 404, media_type="text/plain")
        return Response(content, media_type="image/png", headers={"Cache-Control": "private"})

    def _read_picture(self, image_id: str) -> tuple[bytes, int]:
        image = overlay.find_unchanged(self.ref(image_id), image_id).image()
        return page.encoded(image, "PNG"), image.width

    def _read_field(self, image_id: str) -> bytes:
        ref = self.ref(image_id)
        if ref.region is None:
            raise BadImageError("unreadable", "this cell is a file of its own, without a field")
        x, y, width, height, level = ref.region
        microns = microns_of(ref)
        half = max(round(SEEN / microns), width, height) // 2
        left, top = x + width // 2 - half, y + height // 2 - half
        middle = Region(left + half, top + half, 1, 1, level)
        pixels, wide = overlay.read_around(ref.source, middle, half)
        scale = pixels.shape[1] / wide.width
        side = round(scale * (2 * half + 1))
        image = Image.new("RGB", (side, side), BEYOND)
        image.paste(
            Image.fromarray(pixels), (round(scale * (wide.x - left)), round(scale * (wide.y - top)))
        )
        draw = ImageDraw.Draw(image)
        box = [scale * each for each in (x - left, y - top, x + width - left, y + height - top)]
        draw.rectangle(box, outline=overlay.COLOURS["parasitized"], width=max(1, side // 150))
        edge, thick = side // 40, max(2, side // 60)
        bar = (edge, side - edge - thick, edge + scale * BAR / microns, side - edge)
        draw.rectangle(bar, fill="black", outline="white")
        return page.encoded(image, "PNG")

    def ref(self, image_id: str) -> regions.ImageRef:
        """Find where a cell lies; 404 where there is no such."""
        ref = self._session.ref(image_id)
        if ref is None:
            raise HTTPException(404, "no such cell")
        return ref


def microns_of(ref: regions.ImageRef) -> float:
    """Return the width in microns of a pixel of a cell's source.

    A photograph does not say it: it follows from the usual size of a red cell.
    """
    known = opened_slides.open_picture(ref.source).microns_per_pixel
    return known or RED_CELL * ref.scale / TRAINING_DIAMETER
