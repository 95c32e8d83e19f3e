"""Gzip to bytes in small steps: all members, every checksum, and whatever can be had of a stream that breaks.

isal inflates in a third of zlib's time. Its file class is not used: that loses what it unpacked in the step whose checksum is wrong.
"""

from collections.abc import Iterator
from io import BufferedIOBase

from isal import isal_zlib

STEP = 1 << 14
"""Bytes read, and most bytes unpacked, at once: what one step unpacks is lost where it breaks, and bounds what a bomb can do."""

HEADER_CRC, EXTRA, NAME, COMMENT = 2, 4, 8, 16
"""Flags of a member's header (RFC 1952)."""


class BrokenStream(Exception):
    """The compressed stream ends or breaks here."""


class _Packed:
    """The bytes of the packed stream that were read and not used."""

    def __init__(self, stream: BufferedIOBase):
        self.stream, self.block = stream, b""

    def more(self) -> bool:
        """Reads on where nothing is left; False at the stream's end."""
        self.block = self.block or self.stream.read(STEP)
        return bool(self.block)

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises BrokenStream where there are fewer."""
        taken = b""
        while len(taken) < size:
            if not self.more():
                raise BrokenStream("Compressed file ended before the end-of-stream marker was reached")
            part = self.block[: size - len(taken)]
            taken, self.block = taken + part, self.block[len(part) :]
        return taken

    def skip_text(self) -> None:
        """Passes over a text that ends in a zero byte."""
        while self.take(1) != b"\0":
            end = self.block.find(b"\0")
            self.block = self.block[end:] if end >= 0 else b""


def gunzip(stream: BufferedIOBase) -> Iterator[bytes]:
    """The unpacked bytes. Raises BrokenStream."""
    packed = _Packed(stream)
    if not packed.more():
        return
    while packed.block:
        _skip_header(packed)
        yield from _inflate(packed)
        while packed.more() and not packed.block.strip(b"\0"):  # zeros may fill up a tape's block
            packed.block = b""
        packed.block = packed.block.lstrip(b"\0")


def _skip_header(packed: _Packed) -> None:
    magic = packed.take(2)
    if magic != b"\x1f\x8b":
        raise BrokenStream(f"Not a gzipped file ({magic!r})")
    method, flags, *_ = packed.take(8)
    if method != 8:
        raise BrokenStream("Unknown compression method")
    if flags & EXTRA:
        packed.take(int.from_bytes(packed.take(2), "little"))
    if flags & NAME:
        packed.skip_text()
    if flags & COMMENT:
        packed.skip_text()
    if flags & HEADER_CRC:
        packed.take(2)


def _inflate(packed: _Packed) -> Iterator[bytes]:
    inflate = isal_zlib.decompressobj(wbits=-isal_zlib.MAX_WBITS)
    checksum = size = 0
    while not inflate.eof:
        at_end = not packed.more()
        try:
            data = inflate.decompress(packed.block, STEP)
        except isal_zlib.error as error:  # pyright: ignore[reportGeneralTypeIssues] (isal's stub calls it an instance)
            raise BrokenStream(str(error)) from None
        packed.block = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if data:
            checksum = isal_zlib.crc32(data, checksum)
            size += len(data)
            yield data
        elif at_end and not inflate.eof:
            raise BrokenStream("Compressed file ended before the end-of-stream marker was reached")
    if int.from_bytes(packed.take(4), "little") != checksum:
        raise BrokenStream("CRC check failed")
    if int.from_bytes(packed.take(4), "little") != size & 0xFFFFFFFF:
        raise BrokenStream("Incorrect length of data produced")
