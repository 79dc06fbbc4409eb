from __future__ import annotations

import asyncio
import sys
import tracemalloc

from flambeau.output import Lines, Output, OutputBudget, OutputLimits, Stream

LIMITS = OutputLimits(lines_per_s=10, bytes_per_s=1000, burst_s=2)


class Heard:
    """What was handed over, and what was left out."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped: list[tuple[int, int]] = []

    def line(self, stream: Stream, line: str) -> None:
        assert stream == "stdout"
        self.lines.append(line)

    def drop(self, num_lines: int, num_bytes: int) -> None:
        self.dropped.append((num_lines, num_bytes))

    def reader(self) -> Lines:
        budget = OutputBudget(LIMITS, now=0.0)
        return Lines("stdout", budget, self.line, self.drop)


def test_lines_are_handed_over_whole_however_they_come() -> None:
    heard = Heard()
    lines = heard.reader()
    for chunk in (b"one\ntw", b"o\r\n", b"three"):
        lines.add(chunk, now=0.0)
    lines.end()
    assert heard.lines == ["one", "two", "three"]
    assert not heard.dropped


def test_more_lines_than_the_burst_are_left_out_and_told_once() -> None:
    heard = Heard()
    lines = heard.reader()
    for _ in range(5):
        lines.add(b"x\n" * 10, now=0.0)
    assert heard.lines == ["x"] * 20
    lines.add(b"again\n", now=1.0)
    assert heard.dropped == [(30, 60)]
    assert heard.lines[20:] == ["again"]


def test_bytes_without_an_end_of_line_are_bounded_too() -> None:
    heard = Heard()
    lines = heard.reader()
    for _ in range(100):
        lines.add(b"x" * 1000, now=0.0)
    lines.end()
    assert sum(map(len, heard.lines)) <= 2000 + 1000
    assert heard.dropped == [(0, 100_000)]


def test_the_last_words_of_a_flood_are_heard() -> None:
    heard = Heard()
    lines = heard.reader()
    lines.add(b"x\n" * 100, now=0.0)
    lines.add(b"x\n" * 100 + b"Traceback\nSegmentation fault\n", now=0.0)
    lines.end()
    assert heard.lines[-2:] == ["Traceback", "Segmentation fault"]
    assert heard.dropped


def test_two_hundred_megabytes_are_read_in_bounded_memory() -> None:
    program = "import os\nfor _ in range(200): os.write(1, (b'x' * 99 + b'\\n') * 10_000)"

    async def story() -> None:
        heard = Heard()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output = Output(child, heard.line, on_dropped=heard.drop, limits=LIMITS)
        tracemalloc.start()
        assert await child.wait() == 0
        await output.finish()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20
        num_dropped = sum(num_bytes for _, num_bytes in heard.dropped)
        assert 199_000_000 < num_dropped <= 200_000_000

    asyncio.run(story())
