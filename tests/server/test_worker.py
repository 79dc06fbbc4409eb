"""Real worker processes over a socketpair, as `process.py` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch

import flambeau
from flambeau import torchscript, wire
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import (
    BatchDone,
    BatchMode,
    CancelBatch,
    Chunk,
    Failure,
    FailureKind,
    InferenceRequest,
    Input,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    LoadStage,
    Reply,
    RunBatch,
    ToFront,
    ToWorker,
)
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.slow  # each process imports torch

SERVER_DIR = Path(flambeau.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SERVER_DIR), "PYTHONSAFEPATH": "1"}
TIMEOUT_S = 60

OBEDIENT_HANDLER = r'''
import sys

import torch

from flambeau.errors import InvalidInput, UnsupportedContentType


class Unspeakable(InvalidInput):
    def __str__(self):
        raise RuntimeError


class Handler:
    """Does to the batch what its first request says."""

    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        orders = [row["body"] for row in data]
        if orders[0] == "raise":
            raise ValueError("the handler's own words")
        if orders[0] == "invalid":
            raise InvalidInput("expected something else")
        if orders[0] == "exit":
            sys.exit(3)
        if orders[0] == "interrupt":
            raise KeyboardInterrupt
        if orders[0] == "memory":
            raise MemoryError
        if orders[0] == "device memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if orders[0] == "mentions CUDA":
            raise RuntimeError("CUDA is fine")
        if orders[0] == "no list":
            return {"a": 1}
        if orders[0] == "too few":
            return orders[1:]
        if orders[0] == "object":
            return [object() for _ in orders]
        print("answering", *orders)
        return [self.answer(order, idx, context) for idx, order in enumerate(orders)]

    def answer(self, order, idx, context):
        if order == "bad":
            return InvalidInput("this one is bad")
        if order == "strange":
            return UnsupportedContentType("this one is strange")
        if order == "bad text":
            return InvalidInput("\ud800" * 10_000)
        if order == "bad error":
            return Unspeakable()
        if order == "bad header":
            context.set_response_header(idx, "x-pot", "\ud800")
        if order == "long":
            return "x" * 2_000
        if order == "teapot":
            context.set_response_status(418, "Teapot", idx)
            context.set_response_header(idx, "x-pot", "tea")
        if order == "who":
            return {
                "id": context.get_request_id(idx),
                "agent": context.get_request_header(idx, "User-Agent"),
                "model": context.model_name,
                "batch": context.system_properties["batch_size"],
            }
        return order
'''


class Worker:
    """The front's side of one worker process, blocking."""

    def __init__(self, process: subprocess.Popen[str], sock: socket.socket) -> None:
        self.process = process
        self._sock = sock
        self._reader = wire.FrameReader(max_frame_bytes=2**24)
        self._payloads: list[memoryview] = []
        self._batch_id = 0

    def send(self, message: ToWorker) -> None:
        self._sock.sendall(wire.encode(message))

    def receive(self) -> ToFront:
        while not self._payloads:
            num_bytes = self._sock.recv_into(self._reader.get_buffer())
            assert num_bytes > 0, "the worker hung up"
            self._payloads += self._reader.received(num_bytes)
        return wire.decode_to_front(self._payloads.pop(0))

    def load(
        self,
        model_dir: Path,
        *,
        max_batch_size: int = 4,
        mode: BatchMode = BatchMode.IN_TURN,
        retry: bool = True,
    ) -> list[ToFront]:
        """Load an archive; all messages up to the last word on it."""
        load = load_model(model_dir, max_batch_size=max_batch_size)
        self.send(msgspec.structs.replace(load, batch_mode=mode, retry=retry))
        messages = [self.receive()]
        while isinstance(messages[-1], LoadProgress):
            messages.append(self.receive())
        return messages

    def run(self, *requests: InferenceRequest | str) -> list[Reply | Failure]:
        self._batch_id += 1
        self.send(RunBatch(self._batch_id, [text_request(r) for r in requests]))
        done = self.receive()
        assert isinstance(done, BatchDone)
        assert done.batch_id == self._batch_id
        assert 0 <= done.handler_s < TIMEOUT_S
        return done.results

    def hang_up(self) -> int:
        """Close the socket; the exit status."""
        self._sock.close()
        return self.process.wait(TIMEOUT_S)


def load_model(model_dir: Path, *, max_batch_size: int = 4) -> LoadModel:
    return LoadModel(
        model_name="mine",
        model_version="1.0",
        model_dir=str(model_dir),
        handler=None,
        device="cpu",
        max_batch_size=max_batch_size,
        num_threads=1,
        max_response_bytes=1_000,
        server_version="0.1",
    )


def text_request(order: InferenceRequest | str) -> InferenceRequest:
    if isinstance(order, InferenceRequest):
        return order
    body = Input("body", "text/plain", memoryview(order.encode()))
    return InferenceRequest(f"id of {order}", [("User-Agent", "pytest")], [body])


def body(result: Reply | Failure) -> bytes:
    assert isinstance(result, Reply)
    return bytes(result.body)


@contextmanager
def started() -> Generator[Worker]:
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    process = subprocess.Popen(
        [sys.executable, "-m", "flambeau.worker", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    theirs.close()
    with process, ours:
        yield Worker(process, ours)
        process.kill()


def archive(root: Path, *, handler: str, files: dict[str, str] | None = None) -> Path:
    """An unpacked archive."""
    manifest = Manifest(model_name="mine", handler=handler, serialized_file="model.pt")
    (root / "MAR-INF").mkdir(parents=True)
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    for name, text in (files or {}).items():
        (root / name).write_text(textwrap.dedent(text))
    return root


def linear_archive(root: Path, *, wrong_by: float = 0.0) -> Path:
    """An exported linear model, with samples that it misses by `wrong_by` in the third."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).eval()
    inputs = torch.randn(5, 3)
    outputs = model(inputs).detach()
    archive(root, handler="base_handler")
    torchscript.save(torchscript.trace(model, [inputs]), root / "model.pt")
    outputs[2, 1] += wrong_by
    samples = Samples(inputs=(inputs,), outputs=(outputs,), tolerance=Tolerance())
    (root / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    signature = Signature(
        inputs=(TensorSpec(name="input", dtype="float32", shape=(None, 3)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None, 2)),),
    )
    (root / SIGNATURE_PATH).write_text(signature.to_json())
    return root


@pytest.fixture(scope="module")
def obedient(tmp_path_factory: pytest.TempPathFactory) -> Generator[Worker]:
    root = archive(
        tmp_path_factory.mktemp("obedient") / "model",
        handler="orders.py",
        files={"orders.py": OBEDIENT_HANDLER},
    )
    with started() as worker:
        assert isinstance(worker.load(root)[-1], Loaded)
        yield worker


def test_an_archive_is_loaded_warmed_up_checked_and_served(tmp_path: Path) -> None:
    root = linear_archive(tmp_path / "model")
    with started() as worker:
        *progress, loaded = worker.load(root)
        assert progress == [
            LoadProgress(LoadStage.LOADING),
            LoadProgress(LoadStage.WARMING_UP),
            LoadProgress(LoadStage.CHECKING),
        ]
        assert isinstance(loaded, Loaded)
        assert loaded.load_s > 0
        assert loaded.warm_up_s > 0
        assert loaded.check.startswith("5 samples, max abs error ")
        assert loaded.check.endswith(", top-1 5/5")
        model = torchscript.load(root / "model.pt", device="cpu")
        samples = np.random.default_rng(1).standard_normal((4, 3), dtype=np.float32)
        expected = model(torch.from_numpy(samples)).detach().numpy()
        results = worker.run(
            *(
                InferenceRequest("id", [], [Input("body", None, memoryview(row.tobytes()))])
                for row in samples
            )
        )
        got = np.array([json.loads(body(result)) for result in results], dtype=np.float32)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert worker.hang_up() == 0


def test_a_model_that_misses_its_samples_is_refused_by_name(tmp_path: Path) -> None:
    root = linear_archive(tmp_path / "model", wrong_by=0.5)
    with started() as worker:
        failed = worker.load(root)[-1]
        assert isinstance(failed, LoadFailed)
        assert failed.stage is LoadStage.CHECKING
        assert failed.kind is FailureKind.HANDLER_FAILED
        assert "does not compute what was recorded" in failed.message
        assert "sample 2, output 0 at [1]: expected " in failed.message
        assert worker.process.wait(TIMEOUT_S) == 1


def test_a_model_whose_samples_influence_each_other_is_refused(tmp_path: Path) -> None:
    class Centred(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values - values.mean(0, keepdim=True)

    root = linear_archive(tmp_path / "model")
    inputs = torch.randn(2, 3)
    torchscript.save(torchscript.trace(Centred(), [inputs]), root / "model.pt")
    samples = Samples(inputs=(inputs,), outputs=(Centred()(inputs),), tolerance=Tolerance())
    (root / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    with started() as worker:
        failed = worker.load(root)[-1]
        assert isinstance(failed, LoadFailed)
        assert "(batch size 1," in failed.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import json\n\nimport missing_here\n",
            "No module named 'missing_here' (mine.py, line 3)",
        ),
        ("def handle(:\n", "SyntaxError"),
        ("raise SystemExit('enough')\n", "SystemExit: enough (mine.py, line 1)"),
        ("import mate\n", "ZeroDivisionError: division by zero (mate.py, line 1)"),
        ("x = 1\n", "Expected only one class in custom service code or a function entry point"),
    ],
    ids=["import", "syntax", "exit", "neighbour", "empty"],
)
def test_a_load_failure_carries_the_original_error(tmp_path: Path, text: str, message: str) -> None:
    files = {"mine.py": text, "mate.py": "1 / 0\n"}
    root = archive(tmp_path / "model", handler="mine", files=files)
    with started() as worker:
        failed = worker.load(root)[-1]
        assert isinstance(failed, LoadFailed)
        assert failed.stage is LoadStage.LOADING
        assert message in failed.message
        assert worker.process.stderr is not None
        assert "Traceback" in worker.process.stderr.read()
        assert worker.process.wait(TIMEOUT_S) == 1


def test_lack_of_memory_while_loading_is_told_apart(tmp_path: Path) -> None:
    files = {"mine.py": "def handle(data, context):\n    raise MemoryError('64 GiB')\n"}
    root = archive(tmp_path / "model", handler="mine", files=files)
    with started() as worker:
        failed = worker.load(root)[-1]
        assert isinstance(failed, LoadFailed)
        assert failed.kind is FailureKind.OUT_OF_RESOURCES
        assert "MemoryError: 64 GiB" in failed.message


def test_a_device_that_is_not_there_fails_the_load(tmp_path: Path) -> None:
    root = linear_archive(tmp_path / "model")
    with started() as worker:
        worker.send(msgspec.structs.replace(load_model(root), device="cuda:99"))
        messages = [worker.receive(), worker.receive()]
        assert isinstance(messages[-1], LoadFailed)
        assert "cuda:99" in messages[-1].message


@pytest.mark.parametrize(
    ("order", "kind", "message"),
    [
        ("raise", FailureKind.HANDLER_FAILED, "Prediction failed"),
        ("exit", FailureKind.HANDLER_FAILED, "Prediction failed"),
        ("interrupt", FailureKind.HANDLER_FAILED, "Prediction failed"),
        ("mentions CUDA", FailureKind.OUT_OF_RESOURCES, "Out of resources"),
        ("invalid", FailureKind.INVALID_INPUT, "expected something else"),
        ("memory", FailureKind.OUT_OF_RESOURCES, "Out of resources"),
        ("device memory", FailureKind.OUT_OF_RESOURCES, "Out of resources"),
        ("no list", FailureKind.HANDLER_FAILED, "Invalid model predict output"),
        ("too few", FailureKind.HANDLER_FAILED, "number of batch response mismatched"),
        ("object", FailureKind.HANDLER_FAILED, "Unsupported model output data type."),
    ],
)
def test_a_request_that_fails_its_batch_fails_alone_and_is_survived(
    obedient: Worker, order: str, kind: FailureKind, message: str
) -> None:
    failed, *others = obedient.run(order, "b", "c")
    assert failed == Failure(kind, message)
    assert list(map(body, others)) == [b"b", b"c"]


def test_a_poisonous_request_costs_few_calls(tmp_path: Path) -> None:
    root = archive(
        tmp_path / "model",
        handler="fragile.py",
        files={
            "fragile.py": """
                calls = []

                def handle(data, context):
                    if data is None:
                        return
                    orders = [row["body"] for row in data]
                    calls.append(orders)
                    if "poison" in orders:
                        raise ValueError("poison")
                    return [len(calls) for _ in orders]
            """
        },
    )
    with started() as worker:
        worker.load(root, max_batch_size=16)
        results = worker.run(*["good"] * 5, "poison", *["good"] * 10)
        failed = [place for place, result in enumerate(results) if isinstance(result, Failure)]
        assert failed == [5]
        (calls,) = worker.run("good")
        assert int(body(calls)) - 1 == 2 * 4 + 1  # 2 * log2(16) + 1


def test_a_model_that_must_not_be_run_again_fails_the_whole_batch(tmp_path: Path) -> None:
    root = archive(
        tmp_path / "model",
        handler="fragile.py",
        files={
            "fragile.py": """
                def handle(data, context):
                    if data is not None and len(data) > 1:
                        raise ValueError("too many")
                    return ["alone"]
            """
        },
    )
    with started() as worker:
        worker.load(root, retry=False)
        failure = Failure(FailureKind.HANDLER_FAILED, "Prediction failed")
        assert worker.run("a", "b") == [failure, failure]
        assert list(map(body, worker.run("a"))) == [b"alone"]


def test_a_chosen_status_of_a_failure_reaches_the_front(tmp_path: Path) -> None:
    root = archive(
        tmp_path / "model",
        handler="choosy.py",
        files={
            "choosy.py": """
                from flambeau.errors import HandlerFailed

                def handle(data, context):
                    if data is not None:
                        raise HandlerFailed("no tea", status=418)
            """
        },
    )
    with started() as worker:
        worker.load(root)
        assert worker.run("a") == [Failure(FailureKind.HANDLER_FAILED, "no tea", 418)]


COUNTING = """
    async def handle(data, context):
        if data is None:
            return
        for number in range(3):
            context.send_intermediate([f"{row['body']}{number} " for row in data])
        return [row["body"] for row in data]
"""


@pytest.mark.parametrize("mode", [BatchMode.IN_TURN, BatchMode.CONCURRENT])
def test_parts_of_answers_are_sent_before_the_result(tmp_path: Path, mode: BatchMode) -> None:
    root = archive(tmp_path / "model", handler="counting.py", files={"counting.py": COUNTING})
    with started() as worker:
        worker.load(root, mode=mode)
        worker.send(RunBatch(7, [text_request("a")]))
        chunks = [worker.receive() for _ in range(3)]
        assert [
            (chunk.batch_id, chunk.place, bytes(chunk.reply.body))
            for chunk in chunks
            if isinstance(chunk, Chunk)
        ] == [(7, 0, b"a0 "), (7, 0, b"a1 "), (7, 0, b"a2 ")]
        done = worker.receive()
        assert isinstance(done, BatchDone)
        assert list(map(body, done.results)) == [b"a"]


def test_concurrent_calls_end_in_their_own_order_and_can_be_cancelled(tmp_path: Path) -> None:
    root = archive(
        tmp_path / "model",
        handler="meeting.py",
        files={
            "meeting.py": """
                import asyncio

                class Handler:
                    def initialize(self, context):
                        self.arrived = {}
                        self.cancelled = []

                    def event(self, name):
                        return self.arrived.setdefault(name, asyncio.Event())

                    async def handle(self, data, context):
                        ((order, name),) = [row["body"].split() for row in data]
                        if order == "free":
                            self.event(name).set()
                        context.send_intermediate(["here"])
                        try:
                            await self.event(name).wait()
                        except asyncio.CancelledError:
                            self.cancelled.append(name)
                            raise
                        return [f"{order} {context.get_request_id(0)} {self.cancelled}"]
            """
        },
    )
    with started() as worker:
        worker.load(root, mode=BatchMode.CONCURRENT)
        worker.send(RunBatch(1, [text_request("wait a")]))
        worker.send(RunBatch(2, [text_request("wait b")]))
        assert {type(worker.receive()) for _ in range(2)} == {Chunk}
        worker.send(CancelBatch(2))
        cancelled = worker.receive()
        worker.send(RunBatch(3, [text_request("free a")]))
        done = [cancelled, *(worker.receive() for _ in range(3))]
        answers = {each.batch_id: each.results[0] for each in done if isinstance(each, BatchDone)}
        assert body(answers[1]) == b"wait id of wait a ['b']"
        assert body(answers[3]) == b"free id of free a ['b']"
        assert isinstance(answers[2], Failure)


def test_a_continuous_batch_is_joined_and_left_between_steps(tmp_path: Path) -> None:
    root = archive(
        tmp_path / "model",
        handler="steps.py",
        files={
            "steps.py": """
                class Handler:
                    def initialize(self, context):
                        context.cache = {}

                    def handle(self, data, context):
                        for idx, row in enumerate(data):
                            if row:
                                context.cache[context.get_request_id(idx)] = int(row["body"])
                        ids = [context.get_request_id(idx) for idx in range(len(data))]
                        for each in ids:
                            context.cache[each] -= 1
                        context.stopping_criteria = [
                            lambda output, each=each: context.cache[each] == 0 for each in ids
                        ]
                        return [f"{context.cache[each]}" for each in ids]
            """
        },
    )
    with started() as worker:
        worker.load(root, mode=BatchMode.CONTINUOUS)
        worker.send(RunBatch(1, [text_request("3")]))
        worker.send(RunBatch(2, [text_request("1")]))
        parts: dict[int, list[tuple[bytes, list[tuple[str, str]]]]] = {1: [], 2: []}
        num_done = 0
        while num_done < 2:
            message = worker.receive()
            assert isinstance(message, Chunk | BatchDone)
            reply = message.reply if isinstance(message, Chunk) else message.results[0]
            assert isinstance(reply, Reply)
            parts[message.batch_id].append((bytes(reply.body), reply.headers))
            num_done += isinstance(message, BatchDone)
        assert [text for text, _ in parts[1]] == [b"2", b"1", b"0"]
        assert [text for text, _ in parts[2]] == [b"0"]
        assert [dict(headers)["ts_stream_next"] for _, headers in parts[1]] == [
            "true",
            "true",
            "false",
        ]


def test_a_request_that_is_refused_fails_alone(obedient: Worker) -> None:
    first, second, third, fourth = obedient.run("good", "bad", "strange", "long")
    assert body(first) == b"good"
    assert second == Failure(FailureKind.INVALID_INPUT, "this one is bad")
    assert third == Failure(FailureKind.UNSUPPORTED_CONTENT_TYPE, "this one is strange")
    assert isinstance(fourth, Failure)
    assert "2000 bytes, over max_response_size 1000" in fourth.message


def test_text_that_cannot_be_sent_is_made_so(obedient: Worker) -> None:
    text, error, header = obedient.run("bad text", "bad error", "bad header")
    assert isinstance(text, Failure)
    assert text.message.startswith(r"\ud800\ud800")
    assert text.message.endswith("... (10000 characters)")
    assert error == Failure(FailureKind.INVALID_INPUT, "Unspeakable")
    assert isinstance(header, Reply)
    assert header.headers == [("x-pot", r"\ud800")]


def test_a_handler_that_closes_stderr_is_survived(tmp_path: Path) -> None:
    text = """
        import sys

        def handle(data, context):
            if data is not None:
                sys.stderr.close()
                return 1 / 0
    """
    root = archive(tmp_path / "model", handler="mine.py", files={"mine.py": text})
    with started() as worker:
        assert isinstance(worker.load(root)[-1], Loaded)
        expected = [Failure(FailureKind.HANDLER_FAILED, "Prediction failed")]
        assert worker.run("x") == expected
        assert worker.run("x") == expected


def test_a_handler_may_refuse_a_batch_of_one_by_raising(obedient: Worker) -> None:
    expected = Failure(FailureKind.INVALID_INPUT, "expected something else")
    assert obedient.run("invalid") == [expected]


def test_each_request_has_its_own_headers_status_and_id(obedient: Worker) -> None:
    plain, teapot, who = obedient.run("plain", "teapot", "who")
    assert isinstance(plain, Reply)
    assert (plain.status, plain.phrase, plain.headers) == (200, "", [])
    assert isinstance(teapot, Reply)
    assert (teapot.status, teapot.phrase) == (418, "Teapot")
    assert teapot.headers == [("x-pot", "tea")]
    assert json.loads(body(who)) == {
        "id": "id of who",
        "agent": "pytest",
        "model": "mine",
        "batch": 4,
    }


def test_what_a_handler_set_does_not_reach_the_next_batch(obedient: Worker) -> None:
    obedient.run("teapot")
    (after,) = obedient.run("plain")
    assert isinstance(after, Reply)
    assert (after.status, after.headers) == (200, [])


def test_an_interrupt_from_the_terminal_is_the_fronts_business(obedient: Worker) -> None:
    obedient.process.send_signal(signal.SIGINT)
    assert list(map(body, obedient.run("here"))) == [b"here"]


def test_what_a_handler_prints_comes_out_line_by_line(tmp_path: Path) -> None:
    files = {
        "mine.py": "def handle(data, context):\n    print('hello')\n    return data and ['x']\n"
    }
    root = archive(tmp_path / "model", handler="mine.py", files=files)
    with started() as worker:
        worker.load(root)
        assert worker.process.stdout is not None
        assert worker.process.stdout.readline() == "hello\n"  # the worker is still running


def test_a_front_that_says_nothing_and_leaves_ends_the_worker() -> None:
    with started() as worker:
        assert worker.hang_up() == 0


def test_a_front_that_leaves_during_a_batch_ends_the_worker(tmp_path: Path) -> None:
    root = linear_archive(tmp_path / "model")
    with started() as worker:
        worker.load(root)
        request = text_request("x")
        worker.send(RunBatch(1, [request]))
        assert worker.hang_up() == 0


STARTS_A_WORKER_AND_WAITS = """
import subprocess, sys
fd = int(sys.argv[1])
command = [sys.executable, "-m", "flambeau.worker", "--fd", str(fd)]
subprocess.Popen(command, pass_fds=[fd])
sys.stdin.read()
"""


def test_a_worker_dies_with_its_front_even_in_the_middle_of_a_call(tmp_path: Path) -> None:
    text = """
        import signal

        def handle(data, context):
            if data is not None:
                print("in the middle")
                signal.pause()
    """
    root = archive(tmp_path / "model", handler="mine", files={"mine.py": text})
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    front = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_WORKER_AND_WAITS, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # the worker's, too
        text=True,
        env=ENVIRONMENT,
    )
    theirs.close()
    with front, ours:
        worker = Worker(front, ours)  # this test keeps the socket, so its end cannot end the worker
        assert isinstance(worker.load(root)[-1], Loaded)
        worker.send(RunBatch(1, [text_request("go on forever")]))
        assert front.stdout is not None
        assert front.stdout.readline() == "in the middle\n"
        front.kill()
        with contextlib.suppress(ConnectionResetError):  # it may have left bytes unread
            assert ours.recv(1) == b""  # the worker's end closed: it is gone


def test_the_worker_never_imports_the_front() -> None:
    code = (
        "import sys, flambeau.worker, flambeau.loading, flambeau.instance\n"
        "assert not {'fastapi', 'uvicorn', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


def test_torch_is_imported_only_once_the_process_is_tied_to_its_front() -> None:
    code = "import sys, flambeau.worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
