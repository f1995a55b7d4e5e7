"""A network that loses, doubles, delays and re-orders messages, and cuts links, one way or both."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.cluster.world import MS, World


@dataclass(slots=True)
class Weather:
    """How bad the links are; chances are per mille of the messages."""

    delay_us_min: int = 200
    delay_us_max: int = 2 * MS
    slow_per_mille: int = 0
    slow_us_max: int = 300 * MS
    loss_per_mille: int = 0
    double_per_mille: int = 0


class Network:
    """Links between all nodes; a link is a pair (from, to)."""

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self.weather = weather
        self._cut: dict[tuple[int, int], bool] = {}

    def cut(self, sender: int, to: int) -> None:
        self._cut[sender, to] = True

    def heal(self) -> None:
        self._cut.clear()

    def is_cut(self, sender: int, to: int) -> bool:
        return (sender, to) in self._cut

    def send(self, sender: int, to: int, arrive: Callable[[], None], *, lost: Callable[[], None]) -> None:
        """Carry one message: `arrive` happens once, or twice, or else perhaps `lost`."""
        world, weather = self._world, self.weather
        if self.is_cut(sender, to) or world.happens(weather.loss_per_mille):
            world.count("lost")
            # A transport sees some of what it loses, never all.
            if world.happens(300):
                world.after(self._delay_us(), lost)
            return

        def unless_cut() -> None:
            # A link that was cut meanwhile loses what was under way.
            if not self.is_cut(sender, to):
                arrive()

        world.after(self._delay_us(), unless_cut)
        if world.happens(weather.double_per_mille):
            world.count("doubled")
            world.after(self._delay_us(), unless_cut)

    def _delay_us(self) -> int:
        world, weather = self._world, self.weather
        if world.happens(weather.slow_per_mille):
            return world.between(weather.delay_us_max, weather.slow_us_max)
        return world.between(weather.delay_us_min, weather.delay_us_max)
