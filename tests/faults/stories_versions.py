"""Stories about versions: C6, C7 and C8."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from benchmarks.swap import Flip, could_answer
from flambeau.archive_keys import SigningKey, make_key
from tests.faults.case import NUM_WORKERS, Scene
from tests.faults.ledger import Outcome
from tests.faults.load import Load
from tests.faults.models import BadVersion, bad_versions, badly_signed_versions
from tests.integration.server import running_server

Replace = Callable[[Scene, Path], Flip]
_REFUSED_S = 2.0  # nothing has to be loaded for it


def versions_swapped(
    scene: Scene, *, num_swaps: int, num_requests: int, replace: Replace | None = None
) -> None:
    """C6: one version after the other. None answers before it is live or once it is drained."""
    scene.serve()
    flips = [Flip(version=1, after=0.0, before=time.monotonic())]
    with scene.load(num_requests) as load:
        for number in range(2, num_swaps + 2):
            load.wait_ended(num_requests // (num_swaps + 1) // 2)
            flips.append((replace or deploy)(scene, scene.archive(f"{number}.0")))
    scene.expect_all_right()
    rows = scene.ledger.of(Outcome.RIGHT)
    strangers = [
        row
        for row in rows
        if _number(row.version)
        not in could_answer(flips, sent_at=row.sent.at, answered_at=row.ended_at)
    ]
    scene.expect(not strangers, f"{len(strangers)} answers of versions that were not live")
    rows.sort(key=lambda row: (row.sent.client, row.sent.at))
    backwards = sum(
        _number(earlier.version) > _number(later.version)
        for earlier, later in pairwise(rows)
        if earlier.sent.client == later.sent.client
    )
    scene.expect(not backwards, f"{backwards} clients were answered by an older version again")


def _number(version: str) -> int:
    return int(version.partition(".")[0])


def deploy(scene: Scene, archive: Path) -> Flip:
    """Replace the default version; returns when that was."""
    number = _number(archive.stem.rpartition("-")[2])
    began_at = flipped_at = time.monotonic()
    query: dict[str, str | int] = {"url": archive.name, "initial_workers": NUM_WORKERS}
    path = f"/models/{scene.model}/deploy"
    step = "nothing"
    with scene.server.management.stream("POST", path, params=query | {"batch_size": 8}) as response:
        for line in response.iter_lines():
            step = json.loads(line).get("step", line)
            if step == "default":
                flipped_at = time.monotonic()
    assert step == "done", f"deploying {archive.name} ended with {step}"
    return Flip(version=number, after=began_at, before=flipped_at)


def replace_with_a_gap(scene: Scene, archive: Path) -> Flip:
    """What must not pass for a swap: the old version is removed before the new one is there."""
    began_at = time.monotonic()
    scene.server.management.delete(f"/models/{scene.model}")
    response = scene.server.register(archive, initial_workers=NUM_WORKERS)
    assert response.status_code == 200, response.text
    number = _number(archive.stem.rpartition("-")[2])
    return Flip(version=number, after=began_at, before=time.monotonic())


def bad_versions_deployed(
    scene: Scene, *, per_version: int, startup_timeout_s: int = 2, is_good: bool = False
) -> None:
    """C7: seven versions that cannot serve. The old one answers throughout, and each is told why.

    Args:
        scene: Where.
        per_version: Requests for each.
        startup_timeout_s: Of the one that hangs.
        is_good: Deploy a good version among them, which takes over: the story must notice.
    """
    scene.serve()
    pids = set(scene.pids())
    bad = bad_versions(scene.store, scene.model, startup_timeout_s=startup_timeout_s)
    with scene.load(len(bad) * per_version) as load:
        slowest_s = _deploy_in_turn(scene, bad, load, per_version=per_version)
        if is_good:
            deploy(scene, scene.archive("2.0"))
    _expect_only_the_first(scene)
    scene.expect(set(scene.pids()) == pids, "the old version's workers were replaced")
    scene.figure("reason_s", slowest_s, at_most=startup_timeout_s + 2)


def badly_signed_versions_deployed(
    scene: Scene, *, per_version: int, are_checked: bool = True
) -> None:
    """C7: versions that nobody vouches for whom the server believes. It says so, and goes on.

    Args:
        scene: Where.
        per_version: Requests for each.
        are_checked: Whether a server of its own asks for signatures; one that does not must be
            found.
    """
    release = scene.store / f"{scene.model}-release.pem"
    make_key(release)
    scene.key = SigningKey.read(release)
    trusted = ("--signatures", "require", "--trusted-keys", str(release.with_suffix(".pub")))
    with ExitStack() as stack:
        if are_checked:
            server = stack.enter_context(running_server(scene.store, *trusted))
            stack.enter_context(scene.on(server))
        scene.serve()
        bad = badly_signed_versions(scene.store, scene.model, key=scene.key)
        with scene.load(len(bad) * per_version) as load:
            slowest_s = _deploy_in_turn(scene, bad, load, per_version=per_version)
        _expect_only_the_first(scene)
        scene.figure("reason_s", slowest_s, at_most=_REFUSED_S)


def _deploy_in_turn(scene: Scene, bad: list[BadVersion], load: Load, *, per_version: int) -> float:
    """Deploy each; returns how many seconds it took at most to be told why not."""
    slowest_s = 0.0
    for version in bad:
        load.wait_ended(per_version // 2)
        began_at = time.monotonic()
        said = _deploy_and_hear(scene, version.archive)
        slowest_s = max(slowest_s, time.monotonic() - began_at)
        told = bool(said) and version.reason in said
        scene.expect(told, f"{version.kind}: the server says {said!r}")
    return slowest_s


def _expect_only_the_first(scene: Scene) -> None:
    scene.expect_all_right()
    versions = {row.version for row in scene.ledger.of(Outcome.RIGHT)}
    scene.expect(versions == {"1.0"}, f"answered by {versions}")


def _deploy_and_hear(scene: Scene, archive: Path) -> str:
    """Why a version was not deployed; empty if it was."""
    path = f"/models/{scene.model}/deploy"
    response = scene.server.management.post(path, params={"url": archive.name})
    if response.status_code != 200:
        return str(response.json()["message"])
    last = json.loads(response.text.splitlines()[-1])
    return str(last["message"]) if last["step"] == "failed" else ""


def workers_scaled(scene: Scene, *, changes: int, num_requests: int, fewest: int = 1) -> None:
    """C8: from 1 worker to 4 and back, then unregistered while busy: all right, then 404."""
    scene.serve(workers=1)
    with scene.load(num_requests, work_ms=5) as load:
        for change in range(changes):
            load.wait_ended(num_requests // changes // 2)
            count = 4 if change % 2 == 0 else fewest
            _scale(scene, count)
            scene.wait_workers(count)
    scene.expect_all_right()
    scene.has_counters = False  # they go with the model
    with scene.load(num_requests // 10, work_ms=5) as load:
        load.wait_ended(num_requests // 20)
        gone = scene.server.management.delete(f"/models/{scene.model}")
        gone_at = time.monotonic()
        load.wait_ended(num_requests // 20)
    scene.expect(gone.status_code == 200, f"unregistering ended with {gone.status_code}")
    failed = scene.ledger.of(Outcome.ERROR)
    scene.expect(
        {row.status for row in failed} == {404}, f"errors: { ({row.why for row in failed}) }"
    )
    late = [r for r in scene.ledger.of(Outcome.RIGHT) if r.sent.at > gone_at]
    scene.expect(not late, f"{len(late)} answers of a model that is gone")


def _scale(scene: Scene, count: int) -> None:
    query: dict[str, str | int] = {"min_worker": count, "max_worker": count, "synchronous": "true"}
    response = scene.server.management.put(f"/models/{scene.model}", params=query)
    assert response.status_code == 200, response.text
