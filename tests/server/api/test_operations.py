"""Operations on models without workers; those with real ones are in tests/integration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flambeau.api.operations import Answer, Operations
from flambeau.api.parameters import Parameters
from flambeau.devices import DeviceCycle
from flambeau.errors import (
    ArchiveError,
    BadParameter,
    DeadlineExceeded,
    FlambeauError,
    MethodNotAllowed,
    ModelNotFound,
    ModelVersionNotFound,
    NoWorker,
)
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, Package
from flambeau.packages import PackageLoader
from flambeau.registry import Registry
from flambeau.store import ModelStore
from flambeau.testing import make_archive

HANDLER = "def handle(data, context): return data"
Story = Callable[[Operations], Awaitable[None]]


def run(
    store_dir: Path,
    story: Story,
    *,
    enable_model_api: bool = True,
    default_workers: int = 0,
    discard: Callable[[Package], Awaitable[None]] | None = None,
    defaults: ModelSettings | None = None,
) -> None:
    """Run a story with operations over an empty registry and the archives of `store_dir`."""

    async def with_operations() -> None:
        with ModelStore(store_dir) as store:
            packages = PackageLoader(store, defaults=defaults or ModelSettings())
            registry = Registry(
                host=Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1000),
                metrics=Metrics(),
                drain_timeout_s=5,
                discard=discard or packages.discard,
            )
            operations = Operations(
                registry,
                packages,
                enable_model_api=enable_model_api,
                default_workers=default_workers,
                unregister_timeout_s=0.01 if discard else 60,
            )
            await story(operations)
            await registry.close()

    asyncio.run(asyncio.wait_for(with_operations(), 30))


async def register(operations: Operations, name: str, **parameters: object) -> Answer:
    return await operations.register(Parameters({"url": f"{name}-1.0.mar", **parameters}))


async def described(operations: Operations, name: str) -> dict[str, Any]:
    document = (await operations.describe(Parameters({}), name)).document
    assert isinstance(document, list)
    (only,) = document
    return dict(only)


async def error_of(work: Awaitable[object]) -> FlambeauError:
    with pytest.raises(FlambeauError) as raised:
        await work
    return raised.value


def test_explicit_parameters_win_over_the_archive_which_wins_over_the_server(
    tmp_path: Path,
) -> None:
    yaml = "batchSize: 4\nresponseTimeout: 7\n"
    make_archive(tmp_path, name="m", handler=HANDLER, model_yaml=yaml)

    async def story(operations: Operations) -> None:
        answer = await register(operations, "m", batch_size="8", startup_timeout=-1)
        assert answer == Answer(
            200,
            {
                "status": 'Model "m" Version: 1.0 registered with 0 initial workers. '
                "Use scale workers API to add workers for the model."
            },
        )
        shown = await described(operations, "m")
        assert shown["batchSize"] == 8
        assert shown["responseTimeout"] == 7
        assert shown["startupTimeout"] == 33
        assert shown["maxBatchDelay"] == 50

    settings = ModelSettings(batch_size=2, startup_timeout_s=33.0, max_batch_delay_ms=50)
    run(tmp_path, story, defaults=settings)


@pytest.mark.parametrize("given", ["x", "", None])
def test_initial_workers_that_are_no_number_leave_the_archive_s_wish(
    tmp_path: Path, given: object
) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER, model_yaml="minWorkers: 1\nmaxWorkers: 2\n")

    async def story(operations: Operations) -> None:
        wish = Parameters({"url": "m-1.0.mar", "initial_workers": given, "synchronous": "false"})
        assert (await operations.register(wish)).code == 202
        shown = await described(operations, "m")
        assert (shown["minWorkers"], shown["maxWorkers"]) == (1, 2)
        assert (await operations.unregister("m")).code == 200
        none = Parameters({"url": "m-1.0.mar", "initial_workers": -1})
        assert (await operations.register(none)).code == 200
        assert (await described(operations, "m"))["minWorkers"] == 0

    run(tmp_path, story)


def test_a_registration_overrides_runtime_and_name(tmp_path: Path) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        await register(operations, "m", model_name="other", runtime="python3", handler="")
        shown = await described(operations, "other")
        assert (shown["runtime"], shown["modelName"]) == ("python3", "other")

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("parameters", "kind", "text"),
    [
        ({}, BadParameter, "Parameter url is required."),
        ({"url": "missing.mar", "runtime": "c"}, BadParameter, "Invalid RuntimeType value: c"),
        ({"url": "missing.mar", "runtime": "LSP"}, ArchiveError, "runtime LSP"),
        ({"url": "missing.mar"}, ModelNotFound, "Model not found at: missing.mar"),
        ({"url": ""}, ModelNotFound, "empty url"),
        ({"url": ["m-1.0.mar"]}, BadParameter, "url is ['m-1.0.mar']; give one value"),
        ({"url": "m-1.0.mar", "batch_size": 0}, BadParameter, "batch_size is 0; use 1 to 65536"),
        ({"url": "m-1.0.mar", "response_timeout": 0}, BadParameter, "response_timeout is 0;"),
    ],
)
def test_a_registration_that_cannot_be_meant_is_refused_and_leaves_nothing(
    tmp_path: Path, parameters: dict[str, object], kind: type[FlambeauError], text: str
) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        error = await error_of(operations.register(Parameters(parameters)))
        assert type(error) is kind
        assert str(error).startswith(text)
        assert operations.list_models(Parameters({})).document == {"models": []}

    run(tmp_path, story)


def test_a_worker_that_gets_no_time_to_start_fails_the_registration(tmp_path: Path) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        error = await error_of(register(operations, "m", initial_workers=1, startup_timeout=0))
        assert str(error) == "Failed to start workers for model m version: 1.0"
        assert type(await error_of(operations.describe(Parameters({}), "m"))) is ModelNotFound

    run(tmp_path, story)


def test_without_the_model_api_nothing_is_registered_or_removed(tmp_path: Path) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        parameters = Parameters({"url": "m-1.0.mar"})
        for work in (
            operations.register(parameters),
            operations.deploy(parameters, "m"),
            operations.unregister("m"),
        ):
            assert isinstance(await error_of(work), MethodNotAllowed)

    run(tmp_path, story, enable_model_api=False)


@pytest.mark.parametrize("limit", [None, "0", "-3", "101", "x", 3])
def test_models_come_sorted_and_in_pages_that_end(tmp_path: Path, limit: object) -> None:
    for name in ("b", "a", "c"):
        make_archive(tmp_path, name=name, handler=HANDLER)

    async def story(operations: Operations) -> None:
        for name in ("b", "a", "c"):
            await register(operations, name)
        listed = operations.list_models(Parameters({"limit": limit})).document
        entries = [{"modelName": name, "modelUrl": f"{name}-1.0.mar"} for name in "abc"]
        assert listed == {"models": entries}

    run(tmp_path, story)


def test_a_page_tells_the_next_one_until_there_is_none(tmp_path: Path) -> None:
    for name in "abc":
        make_archive(tmp_path, name=name, handler=HANDLER)

    def page(operations: Operations, token: object) -> tuple[str, object]:
        document = operations.list_models(
            Parameters({"limit": "2", "next_page_token": token})
        ).document
        assert isinstance(document, dict)
        names = "".join(model["modelName"] for model in document["models"])
        return names, document.get("nextPageToken")

    async def story(operations: Operations) -> None:
        for name in "abc":
            await register(operations, name)
        assert page(operations, None) == ("ab", "2")
        assert page(operations, "2") == ("c", None)
        assert page(operations, "1") == ("bc", None)  # ends with the last model: no next page
        assert page(operations, "-5") == ("ab", "2")
        assert page(operations, "99") == ("", None)

    run(tmp_path, story)


def test_a_model_without_a_worker_is_not_ready_and_describes_nothing_of_its_own(
    tmp_path: Path,
) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        await register(operations, "m")
        assert operations.readiness("m") == Answer(200, {"name": "m", "ready": False})
        error = await error_of(operations.describe(Parameters({"customized": "true"}), "m", "1.0"))
        assert isinstance(error, NoWorker)
        assert str(error) == (
            'Model "m" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )
        everything = await operations.describe(Parameters({"customized": "true"}), "m", "all")
        assert isinstance(everything.document, list)  # nobody is asked about all versions
        with pytest.raises(ModelNotFound, match="Model not found: x"):
            operations.readiness("x")

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"min_worker": 2, "max_worker": 1}, "max_worker cannot be less than min_worker."),
        ({"min_worker": -1}, "initial_workers (min_worker) is -1; use 0 to 1024"),
        ({"min_worker": 5000}, "initial_workers (min_worker) is 5000; use 0 to 1024"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused(
    tmp_path: Path, parameters: dict[str, object], text: str
) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        await register(operations, "m")
        error = await error_of(operations.scale(Parameters(parameters), "m", None))
        assert (type(error), str(error)) == (BadParameter, text)

    run(tmp_path, story)


def test_scaling_takes_the_version_from_the_path_or_the_parameters(tmp_path: Path) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)

    async def story(operations: Operations) -> None:
        await register(operations, "m")
        none = Parameters({"min_worker": 0, "synchronous": "true", "number_gpu": 1, "timeout": -1})
        done = await operations.scale(none, "m", "1.0")
        assert done.text == "Workers scaled to 0 for model: m, version: 1.0"
        assert (await operations.scale(none, "m", None)).text == "Workers scaled to 0 for model: m"
        other = Parameters({"model_version": "2"}).over(none)
        assert type(await error_of(operations.scale(other, "m", None))) is ModelVersionNotFound

    run(tmp_path, story)


def test_a_removal_that_takes_too_long_is_answered_and_goes_on(tmp_path: Path) -> None:
    make_archive(tmp_path, name="m", handler=HANDLER)
    gate = asyncio.Event()
    discarded: list[str] = []

    async def discard(package: Package) -> None:
        await gate.wait()
        discarded.append(package.url)

    async def story(operations: Operations) -> None:
        await register(operations, "m")
        error = await error_of(operations.unregister("m"))
        assert type(error) is DeadlineExceeded
        assert str(error) == "Timed out while cleaning resources: m"
        assert type(await error_of(operations.unregister("m"))) is ModelNotFound
        gate.set()

    run(tmp_path, story, discard=discard)
    assert discarded == ["m-1.0.mar"]


def test_an_answer_s_text_is_its_status_or_its_document() -> None:
    assert Answer(200, {"status": "Done"}).text == "Done"
    assert Answer(200, [{"status": "Done"}]).text == '[\n  {\n    "status": "Done"\n  }\n]'
