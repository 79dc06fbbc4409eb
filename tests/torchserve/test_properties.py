from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.errors import ConfigError
from flambeau.torchserve.command_line import CommandLine
from flambeau.torchserve.properties import Properties, read_properties


def read(
    here: Path,
    text: str | None = None,
    *flags: str,
    environment: dict[str, str] | None = None,
) -> Properties:
    """The properties of a file with this text, named on the command line."""
    if text is not None:
        file = here / "given.properties"
        file.write_text(text)
        flags = (*flags, "--ts-config", str(file))
    return read_properties(CommandLine.parse(flags), environment or {}, log_dir=here / "logs")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_snapshot(here: Path, name: str, text: str = "job_queue_size=7\n") -> Path:
    path = here / "logs" / "config" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_a_file_the_flags_are_all_there_is(here: Path) -> None:
    properties = read(here, None, "--model-store", "store", "--models", "a=a.mar", "b.mar")
    assert properties.values == {"model_store": "store", "load_models": "a=a.mar,b.mar"}
    assert properties.file is None


def test_the_environment_s_file_comes_first_then_the_flag_s_then_the_snapshot_then_the_default(
    here: Path,
) -> None:
    names = ["environment.properties", "flag.properties", "config.properties"]
    for name in names:
        (here / name).write_text(f"load_models={name}")
    snapshot = write_snapshot(here, "20260101000000000-shutdown.cfg", "load_models=snapshot")
    environment = {"TS_CONFIG_FILE": str(here / names[0])}
    flags = ["--ts-config", str(here / names[1])]

    def models(*flags: str, environment: dict[str, str]) -> str:
        return read(here, None, *flags, environment=environment).values["load_models"]

    assert models(*flags, environment=environment) == names[0]
    assert models(*flags, environment={}) == names[1]
    assert models(environment={}) == "snapshot"
    assert models("--ncs", environment={}) == names[2]
    assert read(here).file == snapshot
    assert read(here).from_snapshot


def test_the_newest_snapshot_counts(here: Path) -> None:
    write_snapshot(here, "20260102000000001-startup.cfg")
    newest = write_snapshot(here, "20260102000000002-snapshot.cfg")
    write_snapshot(here, "20251231235959999-shutdown.cfg")
    write_snapshot(here, "notes.cfg")
    assert read(here).file == newest


def test_a_file_that_is_not_there_is_named(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ts-config file not found: gone\.properties"):
        read(here, None, "--ts-config", "gone.properties")


def test_flags_win_over_the_file(here: Path) -> None:
    text = "model_store=theirs\nload_models=all\nenable_model_api=false\n"
    flags = ["--model-store", "ours", "--enable-model-api", "--dt"]
    assert read(here, text, *flags).values == {
        "model_store": "ours",
        "load_models": "all",
        "enable_model_api": "true",
        "disable_token_authorization": "true",
    }


def test_variables_between_dollars_are_filled_in(here: Path) -> None:
    text = "model_store=$$HOME_DIR$$/store\ninference_address=http://$$HOST$$:$$PORT$$\n"
    environment = {"HOME_DIR": "/home/me", "HOST": "0.0.0.0", "PORT": "80"}
    values = read(here, text, environment=environment).values
    assert values["model_store"] == "/home/me/store"
    assert values["inference_address"] == "http://0.0.0.0:80"


def test_an_unknown_variable_between_dollars_is_named(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_store names .* NOWHERE, which is not set"):
        read(here, "model_store=$$NOWHERE$$")


def test_the_environment_wins_over_flags_only_where_the_file_lets_it(here: Path) -> None:
    environment = {
        "TS_JOB_QUEUE_SIZE": "5",
        "TS_MODEL_STORE": "theirs",
        "TS_TOKEN_EXPIRATION_TIME_MIN": "3",
        "TS_HEADER_KEY_SEQUENCE_ID": "x-id",
        "OTHER": "x",
    }
    flags = ["--model-store", "ours"]
    without = read(here, "job_queue_size=1", *flags, environment=environment)
    assert without.values == {"job_queue_size": "1", "model_store": "ours"}
    text = "job_queue_size=1\nenable_envvars_config=TRUE"
    assert read(here, text, *flags, environment=environment).values == {
        "job_queue_size": "5",
        "enable_envvars_config": "TRUE",
        "model_store": "theirs",
        "token_expiration_min": "3",
        "ts_header_key_sequence_id": "x-id",
    }


def test_some_keys_are_not_the_environment_s_to_set(here: Path) -> None:
    environment = {"TS_MODELS": "{}", "TS_VMARGS": "x", "TS_METRIC_TIME_INTERVAL": "1"}
    values = read(here, "enable_envvars_config=true", environment=environment).values
    assert values == {"enable_envvars_config": "true"}


def test_allowed_urls_come_from_the_environment_where_the_file_says_so(here: Path) -> None:
    environment = {"TS_ALLOWED_URLS": "https://here/.*"}
    text = "allowed_urls=file://.*\n"
    assert read(here, text, environment=environment).values["allowed_urls"] == "file://.*"
    text += "use_env_allowed_urls=true\n"
    assert read(here, text, environment=environment).values["allowed_urls"] == "https://here/.*"


def test_the_open_inference_protocol_is_switched_on_by_the_environment_alone(here: Path) -> None:
    values = read(here, "", environment={"TS_OPEN_INFERENCE_PROTOCOL": "oip"}).values
    assert values == {"ts_open_inference_protocol": "true"}
