"""The cases, by the names of docs/reliability.md, each with its whole and its short size.

The whole sizes are for one of three seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.faults.case import Case
from tests.faults.stories_life import front_killed, terminated
from tests.faults.stories_mixed import mixed
from tests.faults.stories_shares import crash_looping, flooded
from tests.faults.stories_traffic import (
    CLOSED_SOON_S,
    NETWORK_FAULTS,
    bad_network,
    clients_leave,
    overloaded,
    slow_clients,
)
from tests.faults.stories_versions import (
    bad_versions_deployed,
    badly_signed_versions_deployed,
    versions_swapped,
    workers_scaled,
)
from tests.faults.stories_workers import (
    front_out_of_files,
    nothing_happens,
    poisonous_requests,
    workers_frozen,
    workers_killed,
    workers_stuck,
)

_RAISES = ("raise", "memory_error", "out_of_memory", "sys_exit")
_CRASHES = ("segfault", "oom_killed", "stack_overflow", "os_exit", "hang")
# kinds of a fault that the tests have, too; the others differ little from them
_TELLING = frozenset(
    {
        "raise",
        "segfault",
        "hang",
        "cut off",
        "1-byte fragments",
        "flood",
        "gil_hang",
        "a long request",
    }
)
_MEANWHILE = (
    *("nothing", "a long request", "half-open sockets"),
    *("loading", "swapping", "second signal"),
)


def _cases() -> Iterator[Case]:
    yield Case(
        name="C1 baseline",
        story=nothing_happens,
        whole={"num_requests": 1000},
        short={"num_requests": 150},
    )
    for retry in (True, False):
        yield Case(
            name=f"C2 retry {'on' if retry else 'off'}",
            story=workers_killed,
            whole={"kills": 4, "per_kill": 300, "retry": retry},
            short={"kills": 1, "per_kill": 80, "retry": retry},
        )
    yield Case(
        name="C3 front killed",
        story=front_killed,
        whole={"kills": 4, "per_kill": 200},
        short={"kills": 1, "per_kill": 80},
        is_own=True,
    )
    for fault in (*_RAISES, *_CRASHES):
        poisons = 25 if fault in _RAISES else 6
        yield Case(
            name=f"C4 {fault.replace('_', ' ')}",
            story=poisonous_requests,
            whole={"fault": fault, "poisons": poisons, "goods": 250},
            short={"fault": fault, "poisons": 1, "goods": 30} if fault in _TELLING else None,
        )
    for meanwhile in _MEANWHILE:
        yield Case(
            name=f"C5 {meanwhile}",
            story=terminated,
            whole={"meanwhile": meanwhile, "num_requests": 200},
            short={"meanwhile": meanwhile, "num_requests": 60} if meanwhile in _TELLING else None,
            is_own=True,
        )
    yield Case(
        name="C6 swaps",
        story=versions_swapped,
        whole={"num_swaps": 7, "num_requests": 1400},
        short={"num_swaps": 2, "num_requests": 150},
    )
    yield Case(
        name="C7 bad versions",
        story=bad_versions_deployed,
        whole={"per_version": 100},
        short={"per_version": 20},
    )
    yield Case(
        name="C7 bad signatures",
        story=badly_signed_versions_deployed,
        whole={"per_version": 60},
        short={"per_version": 20},
        is_own=True,
    )
    yield Case(
        name="C8 scaling",
        story=workers_scaled,
        whole={"changes": 8, "num_requests": 800},
        short={"changes": 2, "num_requests": 120},
    )
    yield Case(name="C9 overload", story=overloaded, whole={"seconds": 6.0}, short={"seconds": 1.5})
    yield Case(
        name="C10 slow clients",
        story=slow_clients,
        whole={
            "pairs": 4,
            "num_sockets": 200,
            "num_requests": 150,
            "closed_within_s": CLOSED_SOON_S,
        },
        short={"pairs": 1, "num_sockets": 40, "num_requests": 50, "closed_within_s": None},
    )
    yield Case(
        name="C10 disconnects",
        story=clients_leave,
        whole={"num_leaving": 300, "num_requests": 600},
        short={"num_leaving": 40, "num_requests": 80},
    )
    for name, network in NETWORK_FAULTS.items():
        yield Case(
            name=f"C13 {name}",
            story=bad_network,
            whole={"fault": network, "num_requests": 80},
            short={"fault": network, "num_requests": 24} if name in _TELLING else None,
        )
    for fault in ("flood", "files", "gil_hang"):
        yield Case(
            name=f"C14 {fault.replace('_', ' ')}",
            story=workers_stuck,
            whole={"fault": fault, "times": 3, "per_fault": 100},
            short={"fault": fault, "times": 1, "per_fault": 40} if fault in _TELLING else None,
        )
    yield Case(
        name="C14 SIGSTOP",
        story=workers_frozen,
        whole={"times": 3, "per_freeze": 100},
        short={"times": 1, "per_freeze": 40},
    )
    yield Case(
        name="C14 files of the front",
        story=front_out_of_files,
        whole={"num_sockets": 300, "num_requests": 300},
        short={"num_sockets": 60, "num_requests": 80},
    )
    yield Case(
        name="C21 flood",
        story=flooded,
        whole={"pairs": 4, "seconds": 2.0},
        short={"pairs": 1, "seconds": 1.0},
    )
    yield Case(
        name="C21 crash loop",
        story=crash_looping,
        whole={"loops": 2, "seconds": 3.0},
        short={"loops": 1, "seconds": 0.5},
    )
    yield Case(
        name="C20 soak",
        story=mixed,
        whole={"seconds": 120.0, "every_s": 5.0},
        short={"seconds": 5.0, "every_s": 1.0},
        num_seeds=1,
    )


CASES = tuple(_cases())


def named(name: str) -> Case:
    """The case of this name."""
    (case,) = (case for case in CASES if case.name == name)
    return case


def beginning_with(prefixes: Iterable[str]) -> tuple[Case, ...]:
    """The cases whose names begin with one of these; all of them without any."""
    prefixes = tuple(prefixes)
    return tuple(case for case in CASES if not prefixes or case.name.startswith(prefixes))
