from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from flambeau.testing import make_archive
from flambeau.torchserve.log_files import DailyFile, torchserve_logs
from flambeau.torchserve.log_lines import ACCESS, MODEL, LongLine, ShortLine
from flambeau.torchserve.places import Places
from tests.integration.server import wait_until
from tests.torchserve.torchserve_command import COMMAND, Home, Started, started

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
PRINTING = """
import os

def handle(data, context):
    if data is None:
        return None
    print("told", os.environ["LOG_LOCATION"], os.environ.get("SECRET"))
    print("forged\\r\\n2026-01-01T00:00:00,000 [ERROR] main x - y")
    context.metrics.add_counter("Told", 1)
    return ["told"] * len(data)
"""


def record(name: str, message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, None, None)
    vars(made).update(extra)
    return made


def test_a_request_is_a_line_of_the_access_log() -> None:
    request = record(
        ACCESS,
        "GET /ping 200",
        client="10.0.0.1",
        client_port=51234,
        method="GET",
        path="/ping?a=b",
        http_version="1.1",
        status=200,
        duration_ms=12.4,
    )
    line = r'/10\.0\.0\.1:51234 "GET /ping\?a=b HTTP/1\.1" 200 12'
    assert re.fullmatch(f"{TIME} - {line}", ShortLine().format(request))
    assert re.fullmatch(rf"{TIME} \[INFO \] main ACCESS_LOG - {line}", LongLine().format(request))


def test_what_a_worker_prints_has_its_name_and_stream() -> None:
    printed = record(
        MODEL, "loading", worker="9000", model="digits", version="1.0", stream="stderr"
    )
    assert re.fullmatch(
        rf"{TIME} \[WARN \] W-9000-digits_1\.0-stderr MODEL_LOG - loading",
        LongLine().format(printed),
    )


def test_fields_of_other_records_follow_the_message() -> None:
    assert (
        LongLine()
        .format(record("flambeau.registry", "registered", model="m"))
        .endswith(" main flambeau.registry - registered model=m")
    )


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x1b[2K", "\x85", "\u2028"])
def test_text_from_outside_stays_on_its_line(end: str) -> None:
    line = LongLine().format(record("flambeau.registry", f"a{end}b", model=f"c{end}d"))
    assert end not in line
    assert repr(end)[1:-1] in line


def test_a_traceback_s_lines_cannot_be_taken_for_records() -> None:
    error = ValueError("first\n2026-01-01T00:00:00,000 [INFO ] main x - second")
    made = record("flambeau.app", "failed")
    made.exc_info = (ValueError, error, None)
    first, *rest = LongLine().format(made).split("\n")
    assert first.endswith("failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_a_file_is_put_aside_when_it_is_full_and_five_are_kept(tmp_path: Path) -> None:
    file = DailyFile(tmp_path / "ts_log.log", max_bytes=100)
    for number in range(20):
        file.handle(record("x", f"{number:02d} " + "." * 80))
    file.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        "ts_log.log",
        *(f"ts_log.log.{number}.gz" for number in range(1, 6)),
    }


def test_a_file_is_put_aside_at_midnight_and_at_a_start_on_another_day(tmp_path: Path) -> None:
    path = tmp_path / "ts_log.log"
    now = [1_800_000_000.0]
    path.write_text("from long ago\n")
    os.utime(path, (now[0] - 2 * 86400, now[0] - 2 * 86400))
    file = DailyFile(path, clock=lambda: now[0])
    file.handle(record("x", "today"))
    assert path.read_text() == "today\n"
    now[0] += 86400
    file.handle(record("x", "tomorrow"))
    file.handle(record("x", "still tomorrow"))
    file.close()
    assert path.read_text() == "tomorrow\nstill tomorrow\n"
    assert (tmp_path / "ts_log.log.2.gz").exists()


def test_what_is_no_file_is_not_put_aside(tmp_path: Path) -> None:
    link = tmp_path / "access_log.log"
    link.symlink_to("/dev/null")
    now = [1_800_000_000.0]
    file = DailyFile(link, max_bytes=1, clock=lambda: now[0])
    for _ in range(3):
        file.handle(record("x", "gone"))
        now[0] += 86400
    file.close()
    assert [*tmp_path.iterdir()] == [link]


def test_a_full_disk_costs_lines_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = DailyFile(tmp_path / "ts_log.log")
    assert file.stream is not None
    file.stream.close()
    file.stream = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  # the handler's
    file.handle(record("x", "lost"))
    file.close()
    assert capfd.readouterr().err == ""


def test_without_a_directory_to_write_to_the_console_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = Places(logs=tmp_path / "file" / "logs", metrics=tmp_path)
    reader, writer = os.pipe()
    before = logging.getLogger().handlers[:]
    try:
        with torchserve_logs(places, level="INFO", console=writer):
            logging.getLogger("flambeau.registry").info("served all the same")
    finally:
        logging.getLogger().handlers[:] = before
        os.close(writer)
    with os.fdopen(reader) as console:
        text = console.read()
    assert "there are no log files" in text
    assert "served all the same" in text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Started]:
    """A server with one model that prints, after one prediction."""
    home = Home(tmp_path_factory.mktemp("home"))
    make_archive(home.store, name="talk", handler=PRINTING)
    home.configure(
        default_workers_per_model="1", blacklist_env_vars="SEC.*", model_metrics_auto_detect="true"
    )
    flags = ["--ncs", "--models", "talk-1.0.mar"]
    with started(home, *flags, SECRET="x", METRICS_LOCATION="metrics") as server:
        with server.client("Inference") as client:
            assert client.post("/predictions/talk", json={}).text == "told"
        yield server


def lines_of(path: Path, text: str) -> list[str]:
    """A log's lines with this text, once there is one."""

    def found() -> list[str]:
        return [line for line in path.read_text().splitlines() if text in line]

    wait_until(lambda: bool(found()), what=f"{text} is in {path}")
    return found()


def wait_printed(server: Started, text: str) -> None:
    server.lines.wait(lambda line: text in line)


@pytest.mark.slow
def test_a_server_writes_each_log_where_torchserve_does(server: Started) -> None:
    logs, metrics = server.home.logs, server.home.directory / "metrics"
    (request,) = lines_of(logs / "access_log.log", "POST")
    assert re.fullmatch(
        rf'{TIME} - /127\.0\.0\.1:\d+ "POST /predictions/talk HTTP/1\.1" 200 \d+', request
    )
    (told,) = lines_of(logs / "model_log.log", "told")
    assert re.fullmatch(
        rf"{TIME} \[INFO \] W-9000-talk_1\.0-stdout MODEL_LOG - told {logs} None", told
    )
    for text in ("model registered", "POST /predictions/talk", f"told {logs}"):
        assert lines_of(logs / "ts_log.log", text)
        wait_printed(server, text)
    (line,) = lines_of(metrics / "model_metrics.log", "Told.")
    assert re.match(rf"{TIME} - Told\.\w+:1", line)
    assert lines_of(metrics / "ts_metrics.log", "Requests2XX.Count:1")


@pytest.mark.slow
def test_a_handler_cannot_forge_a_line(server: Started) -> None:
    lines_of(server.home.logs / "model_log.log", "forged")
    for line in (server.home.logs / "ts_log.log").read_text().splitlines():
        assert re.match(TIME, line)
        assert not line.startswith("2026-01-01T00:00:00,000 [ERROR]")


@pytest.mark.slow
def test_a_console_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.configure()
    process = subprocess.Popen(
        [*COMMAND, "--foreground", "--ncs", "--model-store", "store"],
        cwd=home.directory,
        env=home.environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        log = home.logs / "ts_log.log"
        wait_until(log.exists, what="there is a log")
        (line,) = lines_of(log, "Inference address")
        with httpx.Client(base_url=line.rpartition(" ")[2], trust_env=False) as client:
            for _ in range(100):  # a pipe holds 64 KiB
                assert client.get("/predictions/" + "x" * 2000).status_code == 404
        assert len(lines_of(home.logs / "access_log.log", "GET /predictions/xxx")) > 0
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
