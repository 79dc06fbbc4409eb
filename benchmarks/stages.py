"""Which stage of a request a sampled stack belongs to; `RULES` is the whole of that knowledge.

The innermost frame that a rule names decides, so that a library's frames count for whoever called
it. A new module on the data path needs a row here, or its time shows as `other`.
"""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stage(Enum):
    """Where a request's time goes, in the order in which it passes."""

    LOOP = "event loop: epoll, reading sockets"
    PARSE = "parse HTTP"
    CHECKS = "routing and checks"
    QUEUE = "queue and batch"
    WIRE = "wire between front and worker"
    DECODE = "decode to tensors"
    CALL = "calling the handler"
    MODEL = "model"
    ENCODE = "encode the answer"
    WRITE = "write the answer"
    BOOKKEEPING = "metrics, logs, request ids"
    HELPERS = "other threads"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a stack: `Batcher._dispatch`, its file, and the line it was at."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Frames of these files, functions and source lines belong to this stage."""

    stage: Stage
    file: str
    function: str = "*"
    code: str = ""

    def fits(self, frame: Frame) -> bool:
        return (
            fnmatchcase(frame.file, self.file)
            and fnmatchcase(frame.function.rpartition(".")[2], self.function)
            and (not self.code or re.search(self.code, _source(frame)) is not None)
        )


OURS = "*/flambeau/"

# the first that fits counts
RULES = (
    # the worker
    Rule(Stage.MODEL, "*", "inference"),
    Rule(Stage.DECODE, "*", "preprocess"),
    Rule(Stage.DECODE, "*", "collate"),
    Rule(Stage.ENCODE, "*", "postprocess"),
    Rule(Stage.DECODE, f"{OURS}instance.py", "decode"),
    Rule(Stage.ENCODE, f"{OURS}instance.py", "encode"),
    Rule(Stage.DECODE, f"{OURS}codec.py", "*decode*"),
    Rule(Stage.ENCODE, f"{OURS}codec.py"),
    Rule(Stage.DECODE, f"{OURS}tensors.py"),
    Rule(Stage.DECODE, f"{OURS}image*.py"),
    Rule(Stage.DECODE, f"{OURS}padding.py"),
    Rule(Stage.DECODE, "*/base_handler.py"),
    Rule(Stage.BOOKKEEPING, f"{OURS}handler_metric*.py"),
    Rule(Stage.BOOKKEEPING, f"{OURS}step_timing.py"),
    Rule(Stage.WIRE, f"{OURS}worker.py"),
    Rule(Stage.WIRE, f"{OURS}batch_loops.py"),
    Rule(Stage.MODEL, f"{OURS}weights/*"),
    Rule(Stage.MODEL, f"{OURS}optimizing/*"),
    Rule(Stage.MODEL, f"{OURS}bare_model.py"),
    *(
        Rule(Stage.CALL, f"{OURS}{name}")
        for name in ("instance.py", "context.py", "*handler.py", "torchserve/*")
    ),
    # both
    Rule(Stage.WIRE, f"{OURS}wire.py"),
    # the front
    Rule(Stage.WIRE, f"{OURS}channel.py"),
    Rule(Stage.WIRE, f"{OURS}process.py"),
    Rule(Stage.WRITE, f"{OURS}*", code=r"transport\.(write|writelines)\("),
    Rule(Stage.WRITE, "*/uvicorn/*", "send"),
    Rule(Stage.ENCODE, f"{OURS}api/fast_lane.py", "_respond"),
    Rule(Stage.QUEUE, f"{OURS}api/fast_lane.py", "_on_result"),
    Rule(Stage.QUEUE, f"{OURS}api/fast_lane.py", "_submit"),
    Rule(Stage.BOOKKEEPING, f"{OURS}api/fast_lane.py", "_count"),
    Rule(Stage.ENCODE, f"{OURS}api/reply.py"),
    Rule(Stage.ENCODE, f"{OURS}api/responses.py"),
    Rule(Stage.ENCODE, "*/starlette/responses.py"),
    Rule(Stage.PARSE, f"{OURS}api/body.py"),
    Rule(Stage.PARSE, f"{OURS}listener.py"),
    Rule(Stage.PARSE, f"{OURS}protocol.py"),
    Rule(Stage.PARSE, "*/uvicorn/*"),
    *(
        Rule(Stage.BOOKKEEPING, f"{OURS}{name}")
        for name in ("metrics*.py", "api/edge.py", "logging.py", "background_log.py")
    ),
    Rule(Stage.CHECKS, f"{OURS}registry.py"),
    Rule(Stage.CHECKS, f"{OURS}api/*"),
    Rule(Stage.CHECKS, f"{OURS}admission.py"),
    Rule(Stage.CHECKS, f"{OURS}tokens.py"),
    *(
        Rule(Stage.QUEUE, f"{OURS}{name}")
        for name in ("batch*.py", "pending.py", "*_queue.py", "model_version.py", "worker_slot.py")
    ),
    Rule(Stage.CHECKS, "*/fastapi/*"),
    Rule(Stage.CHECKS, "*/starlette/*"),
    Rule(Stage.LOOP, "*/asyncio/runners.py"),
    Rule(Stage.LOOP, "*/uvloop/*"),
)


def stage_of(stack: Sequence[Frame]) -> Stage:
    """The stage of a stack, whose outermost frame is first."""
    for frame in reversed(stack):
        for rule in RULES:
            if rule.fits(frame):
                return rule.stage
    return Stage.OTHER


def _source(frame: Frame) -> str:
    return linecache.getline(frame.file, frame.line)
