"""How many threads pay: two that wait for each other lose to one where a core is taken."""

from __future__ import annotations

import torch


class Crowding:
    """Notices from the times of equal steps that other programs hold the cores.

    Threads meet in every small operation. On a core that is taken each meeting waits for the
    scheduler, and a step can last a hundred times longer than with one thread. The cores may be
    taken from the start, so one early step is tried with one thread.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.patience = patience  # seconds
        self.fastest, self.lost = float("inf"), 0.0
        self._threads = 1  # to go back to after the trial
        self._steps = 0

    def relieve(self, seconds: float) -> bool:
        """Takes the time of a step; True when it has just put torch down to one thread for good."""
        self._steps += 1
        if self._threads > 1:  # that was the trial
            if seconds < self.fastest:
                self._threads = 1
                return True
            torch.set_num_threads(self._threads)
            self._threads = 1
            return False
        if torch.get_num_threads() == 1:
            return False
        self.fastest = min(self.fastest, seconds)
        self.lost += max(0.0, seconds - 2 * self.fastest)
        if self._steps == 2:  # the first also sets things up
            self._threads = torch.get_num_threads()
            torch.set_num_threads(1)
            return False
        if self.lost < self.patience:
            return False
        torch.set_num_threads(1)
        return True
