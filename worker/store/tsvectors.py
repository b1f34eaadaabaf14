"""The type tsvector in binary, which Postgres reads without a parser.

The layout is that of `tsvectorsend` in Postgres: the number of lexemes, then for each its UTF-8, a zero, the number of
its places, and the places with their labels. Postgres sorts the lexemes. A search reads how often a chunk has a lexeme,
not where, so the places are 1, 2, 3 and so on: counting words takes a third of the time of writing their places.
"""

import struct
from collections.abc import Mapping

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

MAX_PLACES = 255  # of a lexeme: Postgres' own parser keeps no more
USUAL_PLACES = 40
LABEL_B = 2 << 14  # above the 14 bits of a place

_Times = (
    int | tuple[int, int]
)  # how often a text has a lexeme: without a label; or without one, and with the label B


class TsVector(bytes):
    """A tsvector as Postgres receives it in binary."""


class TsVectorDumper(Dumper):
    """Passes a TsVector as it is, in binary parameters and COPY."""

    format = Format.BINARY
    oid = types["tsvector"].oid

    def dump(self, obj: TsVector) -> Buffer:
        """Return the bytes."""
        return obj


class _Places(dict[_Times, bytes]):
    """The places of a lexeme by how often a text has it."""

    def __missing__(self, times: _Times) -> bytes:
        plain, labelled = (times, 0) if isinstance(times, int) else times
        places = [
            *range(1, plain + 1),
            *(place | LABEL_B for place in range(plain + 1, plain + labelled + 1)),
        ]
        kept = places[:MAX_PLACES]
        packed = struct.pack(f">H{len(kept)}H", len(kept), *kept)
        if len(kept) <= USUAL_PLACES:
            self[times] = packed
        return packed


_places = _Places()


def tsvector(plain: Mapping[bytes, int], labelled: Mapping[bytes, int]) -> TsVector:
    """Make a tsvector of lexemes and how often a text has each, without a label and with the label B.

    Each lexeme ends with a zero.
    """
    times: Mapping[bytes, _Times] = plain
    if labelled:
        times = {**plain, **{lexeme: (plain.get(lexeme, 0), number) for lexeme, number in labelled.items()}}
    lexemes = [lexeme + _places[each] for lexeme, each in times.items()]
    return TsVector(len(lexemes).to_bytes(4, "big") + b"".join(lexemes))


def register(connection: AdaptContext) -> None:
    """Let a connection send tsvectors."""
    connection.adapters.register_dumper(TsVector, TsVectorDumper)
