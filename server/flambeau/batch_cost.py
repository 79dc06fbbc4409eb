"""What a batch costs, by its size, learned from the batches that a version has answered.

Plain arithmetic on a fixed amount of memory: seconds go in, seconds come out. `batch_queue.py`
feeds it, `batch_rules.py` reads it.
"""

from __future__ import annotations

_MEMORY = 1 - 1 / 64  # weight that all before it keep, per batch
_PRIOR = 0.02  # share of the weight that lies on the origin, see `line`
_OUTLIER = 4.0  # one batch counts as at most so many times what was expected of it
_NUM_FIRST = 3  # runs of a size of which the fastest counts: first runs choose kernels, find memory
_MEAN_STEP = 1 / 16  # how far one batch moves the mean of its size
_FLOOR_STEP = 1 / 16  # how far the best case rises with a batch that does not repeat it


class BatchCost:
    """The mean of each size that was seen, and a line through all of them for the others.

    Attributes:
        num_known: Sizes that were seen often enough to be relied upon.
    """

    __slots__ = (
        "_by_size",
        "_cost",
        "_cost_by_size",
        "_floor",
        "_largest",
        "_num_seen",
        "_size",
        "_size_squared",
        "_weight",
        "num_known",
    )

    def __init__(self, *, max_batch_size: int) -> None:
        self.num_known = 0
        # by size: mean seconds, and up to _NUM_FIRST how often it was seen
        self._by_size = [0.0] * (max_batch_size + 1)
        self._num_seen = [0] * (max_batch_size + 1)
        self._largest = 1
        # the best case of late, as a multiple of what was expected
        self._floor = 1.0
        # over the batches seen, each weighted by 1/size as larger ones vary more
        self._weight = self._size = self._size_squared = self._cost = self._cost_by_size = 0.0

    def knows(self, size: int) -> bool:
        """Whether batches of this size were seen often enough to be relied upon."""
        return self._num_seen[size] == _NUM_FIRST

    def expected_s(self, size: int) -> float:
        """What a batch of 1 to `max_batch_size` costs; 0 before the first was seen."""
        mean = self._by_size[size]
        if mean:
            return mean
        fixed_s, per_item_s = self.line()
        return fixed_s + per_item_s * size

    def seen_s(self, size: int) -> float:
        """The same without going beyond what was seen: larger sizes count as the largest of it."""
        return self.expected_s(min(size, self._largest))

    def at_least_s(self, size: int) -> float:
        """What such a batch hardly undercuts, as far as was seen.

        Falls with the first batch that was faster, and rises slowly.
        """
        return self._floor * self.seen_s(size)

    def line(self) -> tuple[float, float]:
        """Seconds that a batch costs however small it is, and that each request adds.

        Least squares that forget. As long as all batches have one size nothing tells the fixed part
        from the rest: a little weight on the origin then makes all of it the requests' own, so that
        nobody waits to save what may not be there.
        """
        if not self._weight:
            return 0.0, 0.0
        anchored = self._weight * (1 + _PRIOR)
        slope = (anchored * self._cost_by_size - self._size * self._cost) / (
            anchored * self._size_squared - self._size * self._size
        )
        fixed = (self._cost - slope * self._size) / anchored
        if slope < 0:
            return self._cost / self._weight, 0.0
        if fixed < 0:
            return 0.0, self._cost_by_size / self._size_squared
        return fixed, slope

    def observe(self, size: int, seconds: float) -> None:
        """Learn from one batch.

        Args:
            size: Requests in it, 1 to `max_batch_size`.
            seconds: For how long it kept its worker from another batch.
        """
        mean, num_seen = self._by_size[size], self._num_seen[size]
        if mean:
            ratio = seconds / mean
            if ratio < self._floor:
                self._floor = ratio
            elif ratio < 1:
                self._floor += (ratio - self._floor) * _FLOOR_STEP
            else:
                self._floor += (1 - self._floor) * _FLOOR_STEP
                seconds = min(seconds, _OUTLIER * mean)
        if num_seen == _NUM_FIRST:
            self._by_size[size] = mean + (seconds - mean) * _MEAN_STEP
        else:
            self._num_seen[size] = num_seen + 1
            self.num_known += num_seen + 1 == _NUM_FIRST
            self._by_size[size] = min(mean or seconds, seconds)
            self._largest = max(self._largest, size)
        self._weight = self._weight * _MEMORY + 1 / size
        self._size = self._size * _MEMORY + 1
        self._size_squared = self._size_squared * _MEMORY + size
        self._cost = self._cost * _MEMORY + seconds / size
        self._cost_by_size = self._cost_by_size * _MEMORY + seconds
