"""Cut a place up into tiles."""

from tasks.smears.segmentation.places import Row, box_of, image_row, size_of


def tiles_of_place(place: Row, tile: int, overlap: int) -> list[Row]:
    """List the tiles of a source whose middle lies in a place; the last ones end with the source.

    ``tile`` is the side of a tile in pixels, ``overlap`` that of neighbouring ones.
    """
    x, y, width, height = box_of(place)
    across, down = size_of(place)
    boxes = [
        (left, top, wide, tall)
        for top, tall in _steps(down, tile, overlap)
        if y <= top + tall / 2 < y + height
        for left, wide in _steps(across, tile, overlap)
        if x <= left + wide / 2 < x + width
    ]
    label = {"label": place["label"]}
    return [image_row(place, box, None, level=0, scale=1.0, kind="tile") | label for box in boxes]


def _steps(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Say where tiles begin along a side, and how long they are there.

    >>> _steps(9, tile=4, overlap=1)
    [(0, 4), (3, 4), (5, 4)]
    """
    if length <= tile:
        return [(0, length)]
    starts = list(range(0, length - tile, tile - overlap))
    return [(start, tile) for start in [*starts, length - tile]]
