"""How many threads pay: two that wait for each other lose to one where a core is taken."""

from __future__ import annotations

import torch


class Crowding:
    """Notices from the times of equal steps that other programs hold the cores.

    Threads meet in every small operation. On a core that is taken each meeting waits for the
    scheduler, and a step can last a hundred times longer than with one thread.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.patience = patience  # seconds
        self.fastest, self.lost = float("inf"), 0.0

    def relieve(self, seconds: float) -> bool:
        """Takes the time of a step; True when it has just put torch down to one thread."""
        self.fastest = min(self.fastest, seconds)
        self.lost += max(0.0, seconds - 2 * self.fastest)
        if self.lost < self.patience or torch.get_num_threads() == 1:
            return False
        torch.set_num_threads(1)
        return True
