"""Sample files for demonstrations: pictures, a PDF and awkward names, made by the standard library alone.

Each file can really be opened; only the film is made-up bytes of a film's size.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from simulators.dam_store import Content, GeneratedContent, content_length

FILM_BYTES = 60_000_000

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class SampleFile:
    """A file for a DAM folder. `folders` are the sub-folders on the way to it, the outermost first."""

    name: str
    content: Content
    folders: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """In bytes."""
        return content_length(self.content)

    def sha1(self) -> str:
        """Hex SHA-1 of the content."""
        if isinstance(self.content, GeneratedContent):
            return self.content.sha1()
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()


def campaign_files() -> list[SampleFile]:
    """What a whole campaign may hold, with everything that has ever made file transfers stumble."""
    return [
        SampleFile("Key visual.png", make_png(640, 360, (255, 196, 61), (214, 40, 90))),
        SampleFile("Packshot größe L.jpg", make_jpeg(320, 320, (250, 240, 225), (120, 60, 20))),
        SampleFile("Logo.png", make_png(96, 96, (30, 30, 60), (90, 120, 255))),
        SampleFile("logo.PNG", make_png(96, 96, (255, 255, 255), (30, 30, 60))),
        SampleFile("Copy deck.pdf", make_pdf(["Spring Launch", "Spring is here.", "So is the chocolate."])),
        SampleFile("Brief <b>draft</b> 1/2.txt", b"A name with a slash and with HTML in it.\n"),
        SampleFile("to be delivered.txt", b""),
        SampleFile("春のキャンペーン.jpg", make_jpeg(240, 160, (255, 220, 230), (240, 110, 150)), ("Asia",)),
        SampleFile("شعار الربيع.png", make_png(120, 80, (0, 110, 80), (230, 250, 240)), ("Middle East",)),
        SampleFile(
            "🍫 story 🎉.jpg", make_jpeg(180, 320, (70, 30, 10), (255, 210, 120)), ("Social", "Stories")
        ),
        SampleFile("Key visual.png", make_png(180, 320, (61, 196, 255), (40, 90, 214)), ("Social",)),
        SampleFile("TV spot 30s master.mxf", GeneratedContent(FILM_BYTES, seed=30), ("Film", "Masters")),
    ]


def few_files(title: str) -> list[SampleFile]:
    """A small delivery: one picture and one document."""
    return [
        SampleFile("Banner.png", make_png(320, 100, (20, 90, 60), (230, 200, 120))),
        SampleFile("Texts.pdf", make_pdf([title, "All texts, final."]), ("Print",)),
    ]


# --- pictures -----------------------------------------------------------------------------------------------


def make_png(width: int, height: int, first: Colour, last: Colour) -> bytes:
    """A picture that fades from one colour to the other, from corner to corner."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)  # this row is stored as it is
        for x in range(width):
            rows += bytes(_fade(first, last, (x / width + y / height) / 2))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_jpeg(width: int, height: int, first: Colour, last: Colour) -> bytes:
    """A picture of flat 8 x 8 blocks that fade from the middle to the edge: baseline JPEG.

    A flat block needs nothing but its mean, so the encoder can do without a cosine transform.
    """
    bits = _Bits()
    before = [0, 0, 0]
    across, down = math.ceil(width / 8), math.ceil(height / 8)
    for row in range(down):
        for column in range(across):
            away = math.hypot(2 * (column + 0.5) / across - 1, 2 * (row + 0.5) / down - 1) / math.sqrt(2)
            levels = [8 * (level - 128) for level in _to_ycc(_fade(first, last, away))]
            for channel, level in enumerate(levels):
                _write_flat_block(bits, level - before[channel])
                before[channel] = level
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes((n, 0x11, 0)) for n in (1, 2, 3))
    return b"".join(
        (
            b"\xff\xd8",
            _jpeg_segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
            _jpeg_segment(0xDB, b"\0" + b"\x01" * 64),  # no loss by quantisation
            _jpeg_segment(0xC0, frame),
            _jpeg_segment(0xC4, b"\0" + bytes([0] * 3 + [12] + [0] * 12) + bytes(range(12))),
            _jpeg_segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0"),
            _jpeg_segment(0xDA, b"\x03\x01\0\x02\0\x03\0\0\x3f\0"),
            bits.finish(),
            b"\xff\xd9",
        )
    )


def _write_flat_block(bits: _Bits, difference: int) -> None:
    """The difference of the block's mean to the one before, then "nothing else in this block"."""
    size = abs(difference).bit_length()
    bits.write(size, 4)  # our table gives every size the code of its own number
    bits.write(difference if difference >= 0 else difference + (1 << size) - 1, size)
    bits.write(0, 1)


class _Bits:
    """Bits written one after the other, as JPEG wants them: an FF byte is followed by 00."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._value = 0
        self._count = 0

    def write(self, value: int, count: int) -> None:
        self._value = self._value << count | value
        self._count += count
        while self._count >= 8:
            self._count -= 8
            byte = self._value >> self._count & 0xFF
            self._done += b"\xff\0" if byte == 0xFF else bytes((byte,))

    def finish(self) -> bytes:
        while self._count:
            self.write(1, 1)
        return bytes(self._done)


def _jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def _fade(first: Colour, last: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, last, strict=True))
    return red, green, blue


def _to_ycc(colour: Colour) -> Colour:
    red, green, blue = colour
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    levels = (luma, 128 + (blue - luma) * 0.564, 128 + (red - luma) * 0.713)
    y, cb, cr = (min(255, max(0, round(level))) for level in levels)
    return y, cb, cr


# --- document -----------------------------------------------------------------------------------------------


def make_pdf(lines: Sequence[str]) -> bytes:
    """One page with these lines, the first one large. ASCII only."""
    shown = []
    for number, line in enumerate(lines):
        escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        shown.append(f"BT /F1 {28 if number == 0 else 14} Tf 72 {740 - 40 * number} Td ({escaped}) Tj ET")
    page = "\n".join(shown).encode("ascii")
    bodies = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    document = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(bodies, 1):
        places.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table_at = len(document)
    document += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1)
    document += b"".join(b"%010d 00000 n \n" % place for place in places)
    document += b"trailer\n<< /Size %d /Root 1 0 R >>\n" % (len(bodies) + 1)
    document += b"startxref\n%d\n%%%%EOF\n" % table_at
    return bytes(document)
