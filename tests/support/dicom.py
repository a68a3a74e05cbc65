"""Whole slides in DICOM, a file for each level, as a scanner's archive gives them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

TILE = 128


def write_dicom_slide(
    folder: Path,
    pixels: NDArray[np.uint8],
    *,
    levels: int = 2,
    microns: float = 0.25,
    name: str = "slide",
    aside: Sequence[str] = (),
) -> list[Path]:
    """Write pixels (height, width, 3), smaller levels and pictures beside them, each to a file."""
    series, study, frame = (generate_uid() for _ in range(3))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, kind in enumerate([*["VOLUME"] * levels, *aside]):
        by = 2**number if kind == "VOLUME" else 1
        image = Image.fromarray(pixels).resize((pixels.shape[1] // by, pixels.shape[0] // by))
        made = _level(image, microns * by, kind, original=number == 0)
        made.SeriesInstanceUID, made.StudyInstanceUID, made.FrameOfReferenceUID = (
            series, study, frame,
        )  # fmt: skip
        made.InstanceNumber = number + 1
        # Names that do not tell which level is the largest.
        files.append(folder / f"{name}-{levels - number if kind == 'VOLUME' else kind}.dcm")
        made.save_as(files[-1], enforce_file_format=True)
    return files


def _level(image: Image.Image, microns: float, kind: str, *, original: bool) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID
    made.Modality = "SM"
    first, last = ("ORIGINAL", "NONE") if original else ("DERIVED", "RESAMPLED")
    made.ImageType = [first, "PRIMARY", kind, last]
    made.DimensionOrganizationType = "TILED_FULL"
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = image.size
    made.Columns = made.Rows = TILE
    made.TotalPixelMatrixFocalPlanes = made.NumberOfOpticalPaths = 1
    made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
    made.PhotometricInterpretation = "YBR_FULL_422"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.LossyImageCompression = "01"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [microns / 1000, microns / 1000]
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    tiles = [
        _jpeg(image.crop((x, y, x + TILE, y + TILE)))
        for y in range(0, image.height, TILE)
        for x in range(0, image.width, TILE)
    ]
    made.NumberOfFrames = len(tiles)
    made.PixelData = encapsulate(tiles)
    made["PixelData"].is_undefined_length = True
    return made


def _jpeg(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=95)
    content = buffer.getvalue()
    return content + b"\0" * (len(content) % 2)
