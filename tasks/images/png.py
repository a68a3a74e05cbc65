"""Decode plain PNG files, such as cut-out cells, in half of Pillow's time.

libdeflate unpacks rows in a third of the time that the zlib of libpng and libspng takes. libspng
then reverses the filters of the rows, which it is given in a file without compression.
"""

from struct import Struct

from imagecodecs import deflate_crc32, deflate_decode, deflate_encode, spng_decode

from tasks.types import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK, CHECKSUM = Struct(">I4s"), Struct(">I")  # length and name before the data, sum after it
HEADER = Struct(">II5s")  # width and height, then depth, colours and three methods
PLAIN = bytes([8, 2, 0, 0, 0])  # bits, RGB, deflate, the five filters, not interlaced
# Others may make some colour transparent, rotate the picture, or add further pictures.
HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME"})


def decode_plain(content: bytes, longest: int) -> Pixels | None:
    """Decode a PNG file of eight bits of red, green and blue to pixels (height, width, 3).

    It is None if a side has more than ``longest`` pixels, or the file is another or damaged: Pillow
    then decodes it, or reports the error.
    """
    if not content.startswith(SIGNATURE):
        return None
    try:
        (first, header), *chunks = _chunks(content)
        width, height, kind = HEADER.unpack(header)
        if first != b"IHDR" or kind != PLAIN or not 0 < max(width, height) <= longest:
            return None
        packed = b"".join(data for name, data in chunks if name == b"IDAT")
        size = height * (1 + 3 * width)  # each row begins with the number of its filter
        rows = deflate_decode(packed, out=size)
        if len(rows) != size:
            return None
        parts = (b"IHDR" + header, b"IDAT" + deflate_encode(rows, level=0), b"IEND")
        pixels: Pixels = spng_decode(SIGNATURE + b"".join(map(_chunk, parts)))
    except Exception:  # Pillow reports any error
        return None
    return pixels


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """List name and data of the chunks; ValueError if one is not harmless, or is damaged."""
    start, chunks = len(SIGNATURE), [(b"", b"")]
    while chunks[-1][0] != b"IEND":
        length, name = CHUNK.unpack_from(content, start)
        stop = start + CHUNK.size + length
        (checksum,) = CHECKSUM.unpack_from(content, stop)
        if name not in HARMLESS or deflate_crc32(content[start + 4 : stop]) != checksum:
            raise ValueError(f"a chunk {name!r}")
        chunks.append((name, content[start + CHUNK.size : stop]))
        start = stop + CHECKSUM.size
    if start != len(content):
        raise ValueError("more after its end")
    return chunks[1:]


def _chunk(content: bytes) -> bytes:
    """Add the length of the data and the checksum to a chunk's name and data."""
    return CHECKSUM.pack(len(content) - 4) + content + CHECKSUM.pack(deflate_crc32(content))
