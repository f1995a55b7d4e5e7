"""How far the scrub of a node came: `scrub.json` in the store's folder, one line."""

import json
from pathlib import Path

from mcr.model import DIGEST_BYTES, ChunkId
from mcr_node.ports_scrub import ScrubPlace
from mcr_node.storage import store_folder

FILE = "scrub.json"


class ScrubPlaceFile:
    """`ports_scrub.ScrubPlaces` in a file. Nothing depends on it but work that would be done twice."""

    def __init__(self, path: Path) -> None:
        self._file = path / FILE

    def read(self) -> ScrubPlace:
        """See `ports_scrub.ScrubPlaces`."""
        try:
            value = json.loads(self._file.read_bytes())
            after = bytes.fromhex(value["after"])
            ended_ms = int(value["ended_ms"])
        except (OSError, ValueError, KeyError, TypeError):
            return ScrubPlace()
        return ScrubPlace(ChunkId(after) if len(after) == DIGEST_BYTES else None, max(0, ended_ms))

    def write(self, place: ScrubPlace) -> None:
        """See `ports_scrub.ScrubPlaces`."""
        value = {"after": "" if place.after is None else place.after.hex(), "ended_ms": place.ended_ms}
        try:
            store_folder.write_durably(self._file, json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise store_folder.translated(self._file, error) from error
