from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.address import Address
from flambeau.config import ServeConfig
from flambeau.errors import ConfigError


def load(
    *,
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> ServeConfig:
    return ServeConfig.load(file=file, environment=environment or {}, flags=flags or {})


def test_defaults_bind_loopback_only() -> None:
    config = load()
    assert str(config.inference_address) == "127.0.0.1:8080"
    assert config.management_address.is_loopback
    assert config.metrics_address.is_loopback


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "flambeau.toml"
    file.write_text('job_queue_size = 1\nmax_request_bytes = 1\nlog_level = "DEBUG"\n')
    environment = {"FLAMBEAU_MAX_REQUEST_BYTES": "2", "FLAMBEAU_JOB_QUEUE_SIZE": "2"}
    config = load(file=file, environment=environment, flags={"job_queue_size": "3"})
    assert (config.job_queue_size, config.max_request_bytes, config.log_level) == (3, 2, "DEBUG")
    assert config.max_response_bytes == ServeConfig().max_response_bytes


def test_values_arrive_in_their_field_s_type() -> None:
    environment = {
        "FLAMBEAU_MODELS": "a=a.mar, b.mar",
        "FLAMBEAU_ACCESS_LOG": "off",
        "FLAMBEAU_DRAIN_TIMEOUT_S": "1.5",
        "FLAMBEAU_MODEL_STORE": "/models",
        "FLAMBEAU_METRICS_ADDRESS": "[::1]:9000",
    }
    config = load(environment=environment)
    assert config.models == ("a=a.mar", "b.mar")
    assert config.access_log is False
    assert config.drain_timeout_s == 1.5
    assert config.model_store == Path("/models")
    assert config.metrics_address == Address("::1", 9000)
    assert str(config.metrics_address) == "[::1]:9000"


def test_a_misspelt_key_names_the_nearest_one(tmp_path: Path) -> None:
    file = tmp_path / "flambeau.toml"
    file.write_text("job_queue_sise = 1\n")
    with pytest.raises(ConfigError, match=r"job_queue_sise is not a setting; did you mean 'job_q"):
        load(file=file)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JOB_QUEUE_SIZE", "many", "give a whole number"),
        ("JOB_QUEUE_SIZE", "0", "job_queue_size is 0; use 1 or more"),
        ("ACCESS_LOG", "maybe", "give true or false"),
        ("DRAIN_TIMEOUT_S", "soon", "give a number of seconds"),
        ("DRAIN_TIMEOUT_S", "nan", "drain_timeout_s is nan"),
        ("INFERENCE_ADDRESS", "8080", "give HOST:PORT"),
        ("INFERENCE_ADDRESS", "localhost:99999", "give HOST:PORT"),
        ("LOG_LEVEL", "LOUD", "use DEBUG, INFO, WARNING or ERROR"),
    ],
)
def test_a_wrong_value_names_itself_and_the_next_step(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(environment={f"FLAMBEAU_{variable}": value})


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load(file=tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("= 1")
    with pytest.raises(ConfigError, match=r"broken\.toml cannot be read"):
        load(file=broken)


def test_management_open_to_the_network_needs_a_word() -> None:
    with pytest.raises(ConfigError, match="allow_remote_management"):
        load(flags={"management_address": "0.0.0.0:8081"})
    config = load(flags={"management_address": "0.0.0.0:8081", "allow_remote_management": True})
    assert config.management_address.port == 8081


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        (":80", Address("127.0.0.1", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("http://host:80", Address("host", 80)),
        ("https://host:443/", Address("host", 443, tls=True)),
        ("HTTPS://[::]:443", Address("::", 443, tls=True)),
        ("unix:/run/flambeau.sock", Address("", 0, path=Path("/run/flambeau.sock"))),
    ],
)
def test_an_address_is_read_and_shown_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address
    assert Address.parse(address.url) == address


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:http", "host:-1", "host:65536", "host:²", "unix:run.sock"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give "):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/a.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("example.org:1", False),
    ],
)
def test_only_this_machine_s_own_addresses_are_loopback(text: str, is_loopback: bool) -> None:  # noqa: FBT001  # pytest's parametrize
    assert Address.parse(text).is_loopback is is_loopback


def test_authorities_of_clients_need_a_certificate_of_the_servers() -> None:
    with pytest.raises(ConfigError, match="client_ca_file is given without certificate_file"):
        load(flags={"client_ca_file": "ca.pem"})


def test_management_over_grpc_needs_a_word_too_unless_grpc_is_off() -> None:
    flags: dict[str, object] = {"grpc_management_address": "0.0.0.0:7071"}
    with pytest.raises(ConfigError, match=r"grpc_management_address is 0\.0\.0\.0:7071"):
        load(flags=flags)
    assert not load(flags=flags | {"grpc": "false"}).grpc


def test_settings_of_models_come_from_a_table_or_from_json(tmp_path: Path) -> None:
    file = tmp_path / "flambeau.toml"
    file.write_text('[model_settings.digits."1.0"]\nbatchSize = 4\n')
    table = {"digits": {"1.0": {"batchSize": 4}}}
    assert load(file=file).model_settings == table
    text = '{"digits": {"1.0": {"batchSize": 4}}}'
    assert load(environment={"FLAMBEAU_MODEL_SETTINGS": text}).model_settings == table


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MODEL_SETTINGS", "{", "give {"),
        ("MODEL_SETTINGS", '{"digits": {"1.0": 4}}', "give {"),
        ("MODEL_SETTINGS", "[]", "give {"),
        ("CERTIFICATE_FILE", "c.pem", "certificate_file and private_key_file belong together"),
        ("BLACKLIST_ENV_VARS", "(", "no regular expression"),
        ("HOST_NAMES", "a.example, b.example:8080", "has 'b.example:8080'; give names without"),
    ],
)
def test_settings_that_contradict_or_cannot_be_read_are_refused(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(environment={f"FLAMBEAU_{variable}": value})
