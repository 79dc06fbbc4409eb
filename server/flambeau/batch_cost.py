"""What a batch costs, by its size, learned from the batches that a version has answered.

Plain arithmetic on a fixed amount of memory: seconds go in, seconds come out. `batch_queue.py`
feeds it, `batch_rules.py` reads it.
"""

from __future__ import annotations

_MEMORY = 1 - 1 / 64  # weight that all before it keep, per batch
_PRIOR = 0.02  # share of the weight that lies on the origin, see `observe`
_OUTLIER = 4.0  # one batch counts as at most so many times what was expected of it
_NUM_FIRST = 3  # runs of a size of which the fastest counts: first runs choose kernels, find memory
_MEAN_STEP = 1 / 16  # how far one batch moves the mean of its size
_FLOOR_STEP = 1 / 16  # how far the best case rises with a batch that does not repeat it


class BatchCost:
    """The mean of each size that was seen, and a line through all of them for the others.

    Attributes:
        fixed_s: Seconds a batch costs however small it is; 0 until sizes differed enough to tell.
        per_item_s: Seconds that each of its requests adds.
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
        "fixed_s",
        "num_known",
        "per_item_s",
    )

    def __init__(self, *, max_batch_size: int) -> None:
        self.fixed_s = 0.0
        self.per_item_s = 0.0
        self.num_known = 0
        # weighted sums over the batches seen
        self._weight = self._size = self._size_squared = self._cost = self._cost_by_size = 0.0
        # by size: mean seconds, and up to _NUM_FIRST how often it was seen
        self._by_size = [0.0] * (max_batch_size + 1)
        self._num_seen = [0] * (max_batch_size + 1)
        self._largest = 1
        # the best case of late, as a multiple of what was expected
        self._floor = 1.0

    def knows(self, size: int) -> bool:
        """Whether batches of this size were seen often enough to be relied upon."""
        return self._num_seen[size] == _NUM_FIRST

    def expected_s(self, size: int) -> float:
        """What a batch of 1 to `max_batch_size` costs; 0 before the first was seen."""
        return self._by_size[size] or self.fixed_s + self.per_item_s * size

    def at_least_s(self, size: int) -> float:
        """What such a batch hardly undercuts; sizes above all that were seen count as the largest.

        Falls with the first batch that was faster, and rises slowly.
        """
        return self._floor * self.expected_s(min(size, self._largest))

    def observe(self, size: int, seconds: float) -> None:
        """Learn from one batch.

        The line is fitted by least squares that forget, each batch weighted by 1/size as larger
        ones vary more. As long as all have one size nothing tells the fixed part from the rest: a
        little weight on the origin then makes all of it the requests' own, so that nobody waits to
        save what may not be there.

        Args:
            size: Requests in it, 1 to `max_batch_size`.
            seconds: For how long it kept its worker from another batch.
        """
        mean, num_seen = self._by_size[size], self._num_seen[size]
        if mean:
            ratio = seconds / mean
            if ratio < self._floor:
                self._floor = ratio
            else:
                self._floor += (min(ratio, 1.0) - self._floor) * _FLOOR_STEP
            if ratio > _OUTLIER:
                seconds = _OUTLIER * mean
        if num_seen < _NUM_FIRST:
            self._num_seen[size] = num_seen + 1
            self.num_known += num_seen + 1 == _NUM_FIRST
            self._by_size[size] = min(mean or seconds, seconds)
            self._largest = max(self._largest, size)
        else:
            self._by_size[size] = mean + (seconds - mean) * _MEAN_STEP
        self._weight = weight = self._weight * _MEMORY + 1 / size
        self._size = total = self._size * _MEMORY + 1
        self._size_squared = squared = self._size_squared * _MEMORY + size
        self._cost = cost = self._cost * _MEMORY + seconds / size
        self._cost_by_size = by_size = self._cost_by_size * _MEMORY + seconds
        anchored = weight * (1 + _PRIOR)
        slope = (anchored * by_size - total * cost) / (anchored * squared - total * total)
        fixed = (cost - slope * total) / anchored
        if slope < 0:
            fixed, slope = cost / weight, 0.0
        elif fixed < 0:
            fixed, slope = 0.0, by_size / squared
        self.fixed_s, self.per_item_s = fixed, slope
