"""Damage to any file that we write: it is refused by name, or what is read is to the bit what was written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from formats import FORMATS, Format, plain

SEEDS = 100


def flip_bit(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randrange(2, 20)):
        flip_bit(data, draw)


def change_digit(data: bytearray, draw: random.Random) -> None:
    """0.235 becomes 0.935: the text stays well formed."""
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit() and byte < 128]
    if places:
        data[draw.choice(places)] = ord(draw.choice("0123456789"))


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def remove(data: bytearray, draw: random.Random) -> None:
    begin = draw.randrange(len(data))
    del data[begin : begin + draw.randrange(1, 65)]


def insert(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data) + 1)
    data[place:place] = draw.randbytes(draw.randrange(1, 65))


def repeat(data: bytearray, draw: random.Random) -> None:
    begin = draw.randrange(len(data))
    data[begin:begin] = data[begin : begin + draw.randrange(1, 129)]


def swap(data: bytearray, draw: random.Random) -> None:
    """Two blocks of equal length change places."""
    size = draw.randrange(1, 1 + min(512, len(data) // 2))
    first = draw.randrange(len(data) - 2 * size + 1)
    second = draw.randrange(first + size, len(data) - size + 1)
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


def swap_lines(data: bytearray, draw: random.Random) -> None:
    lines = bytes(data).splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    data[:] = b"".join(lines)


def zero(data: bytearray, draw: random.Random) -> None:
    begin = draw.randrange(len(data))
    end = min(len(data), begin + draw.choice((1, 16, 512, 4096)))
    data[begin:end] = bytes(end - begin)


DAMAGES = (flip_bit, flip_bits, change_digit, truncate, remove, insert, repeat, swap, swap_lines, zero)


def damaged(whole: bytes, *, seed: int) -> bytes:
    data, draw = bytearray(whole), random.Random(seed)
    DAMAGES[seed % len(DAMAGES)](data, draw)
    return bytes(data)


@pytest.fixture(scope="module", params=FORMATS)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Format, Path]:
    """A format, and a folder with its example."""
    made, folder = FORMATS[request.param], tmp_path_factory.mktemp("example")
    made.write(folder)
    return made, folder


def test_no_damage_is_taken_for_right(example: tuple[Format, Path]) -> None:
    """100 seeded mutations of ten kinds."""
    made, folder = example
    (path, *_) = sorted(folder.glob(made.damaged))
    whole, right = path.read_bytes(), plain(made.read(folder))
    refused = 0
    for seed in range(SEEDS):
        data = damaged(whole, seed=seed)
        if data == whole:
            continue
        path.write_bytes(data)
        error = ""
        try:
            found = plain(made.read(folder))
        except (ValueError, OSError) as raised:
            error, found = str(raised), right
            refused += 1
        assert found == right, f"seed {seed}, {DAMAGES[seed % len(DAMAGES)].__name__}: damage is taken for right"
        assert not error or path.name in error, f"seed {seed}: the error does not name the file: {error}"
        path.write_bytes(whole)
    assert refused > SEEDS // 2
    assert plain(made.read(folder)) == right
