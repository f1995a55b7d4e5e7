"""All seeded defects by name: those by text, and those of the world of the simulation around the core."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from tests.mutation.core_defects import TEXT_DEFECTS
from tests.simulation.cluster.defects import DEFECTS

ALL: Final[dict[str, Callable[[], AbstractContextManager[object]]]] = {
    **DEFECTS,
    **{defect.name: defect for defect in TEXT_DEFECTS},
}
