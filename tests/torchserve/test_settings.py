from __future__ import annotations

import json
from pathlib import Path

import pytest

from flambeau.address import Address
from flambeau.config import MetricsMode
from flambeau.errors import ConfigError
from flambeau.torchserve.properties import Properties
from flambeau.torchserve.settings import Settings, settings_of


def settings(**values: str) -> Settings:
    values = {"model_store": "store", **values}
    return settings_of(Properties(values=values, file=None, from_snapshot=False))


def test_without_a_word_torchserve_s_defaults_hold() -> None:
    config = settings().serve
    assert config.model_store == Path("store")
    assert str(config.inference_address) == "127.0.0.1:8080"
    assert str(config.grpc_management_address) == "127.0.0.1:7071"
    assert (config.enable_model_api, config.token_auth, config.token_status_400) == (
        False,
        True,
        True,
    )
    assert config.metrics_mode is MetricsMode.LOG
    assert config.allowed_urls == ("file://.*|http(s)?://.*",)
    assert config.one_worker_per_cpu
    assert not config.open_inference_protocol
    assert settings().notices == ()


def test_each_kind_of_value_arrives() -> None:
    config = settings(
        inference_address="http://0.0.0.0:8085",
        job_queue_size="1000",
        number_of_gpu="0",
        default_response_timeout="300",
        token_expiration_min="0.5",
        metrics_mode="Prometheus",
        disable_token_authorization="TRUE",
        disable_system_metrics="true",
        enable_metrics_api="false",
        allowed_urls="https://a/.*, file://.*",
        load_models="a=a.mar, b.mar",
        service_envelope="kserve",
        blacklist_env_vars="AWS_.*",
        cors_allowed_origin="*",
        debug="true",
    ).serve
    assert config.inference_address == Address("0.0.0.0", 8085)
    assert (config.job_queue_size, config.num_gpus) == (1000, 0)
    assert (config.default_response_timeout_s, config.token_expiration_min) == (300.0, 0.5)
    assert config.metrics_mode is MetricsMode.PROMETHEUS
    assert (config.token_auth, config.system_metrics, config.metrics_api) == (False, False, False)
    assert config.allowed_urls == ("https://a/.*", "file://.*")
    assert config.models == ("a=a.mar", "b.mar")
    assert (config.service_envelope, config.blacklist_env_vars) == ("kserve", "AWS_.*")
    assert config.cors_allowed_origin == "*"
    assert not config.one_worker_per_cpu


@pytest.mark.parametrize(
    ("key", "text", "address"),
    [
        ("inference_address", "http://localhost", Address("localhost", 80)),
        ("inference_address", "https://host", Address("host", 443, tls=True)),
        ("management_address", "http://127.0.0.1", Address("127.0.0.1", 8081)),
        ("management_address", "HTTPS://127.0.0.1/", Address("127.0.0.1", 8444, tls=True)),
        ("metrics_address", "http://127.0.0.1", Address("127.0.0.1", 8082)),
        ("metrics_address", "https://127.0.0.1", Address("127.0.0.1", 8445, tls=True)),
        ("inference_address", "https://[::1]:9", Address("::1", 9, tls=True)),
        ("inference_address", "unix:/run/a.sock", Address("", 0, path=Path("/run/a.sock"))),
    ],
)
def test_an_address_is_read_with_its_key_s_port(key: str, text: str, address: Address) -> None:
    assert getattr(settings(**{key: text}).serve, key) == address


def test_grpc_has_hosts_ports_and_one_switch_for_tls() -> None:
    config = settings(
        grpc_inference_address="0.0.0.0", grpc_management_port="7081", enable_grpc_ssl="true"
    ).serve
    assert config.grpc_inference_address == Address("0.0.0.0", 7070, tls=True)
    assert config.grpc_management_address == Address("127.0.0.1", 7081, tls=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("job_queue_size", "many", "job_queue_size is 'many'; give a whole number"),
        ("job_queue_size", "0", "job_queue_size is 0; use 1 or more"),
        ("default_response_timeout", "soon", "is 'soon'; give a number"),
        ("inference_address", "0.0.0.0:8080", "give http://HOST:PORT"),
        ("inference_address", "http://host:99999", "give a port from 0 to 65535"),
        ("inference_address", "ftp://host:21", "give http://HOST:PORT"),
        ("grpc_inference_port", "70700", "grpc_inference_port is 70700"),
        ("metrics_mode", "loud", "give log, prometheus or legacy"),
        ("models", "{", "models is not JSON"),
        ("models", "[]", "models is .*; give a JSON object"),
        ("models", '{"a": 1}', "models is no table of models"),
        ("model_snapshot", '{"models": {"a": {"1.0": {}}}}', "no marName for a version 1.0"),
        ("certificate_file", "cert.pem", "certificate_file and private_key_file belong together"),
        ("blacklist_env_vars", "(", "no regular expression"),
    ],
)
def test_a_wrong_value_names_itself_and_the_next_step(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**{key: value})


def test_a_model_store_is_needed() -> None:
    with pytest.raises(ConfigError, match="Missing mandatory parameter --model-store"):
        settings(model_store="")


def test_what_changes_nothing_is_named_once_with_its_reason() -> None:
    notices = settings(
        number_of_netty_threads="32",
        vmargs="-Xmx1g",
        plugins_path="plugins",
        ipex_enable="false",
        my_own_key="x",
        async_logging="true",
    ).notices
    assert [notice.partition(" ")[0] for notice in notices] == [
        *("number_of_netty_threads", "vmargs", "plugins_path", "my_own_key", "async_logging")
    ]
    assert "plugins_path is accepted and changes nothing: plugins are Java code" in notices[2]
    assert "no such setting is known" in notices[3]


def test_management_that_strangers_may_use_is_named() -> None:
    risky = {
        "management_address": "http://0.0.0.0:8081",
        "enable_model_api": "true",
        "disable_token_authorization": "true",
    }
    (notice,) = settings(**risky).notices
    assert notice.startswith("management_address is 0.0.0.0:8081, models may be registered")
    for key, value in (
        ("management_address", "http://127.0.0.1:8081"),
        ("enable_model_api", "false"),
        ("disable_token_authorization", "false"),
    ):
        assert settings(**risky | {key: value}).notices == ()


def test_settings_of_models_are_a_table_by_name_and_version() -> None:
    table = {"a": {"1.0": {"batchSize": 4, "defaultVersion": True}}}
    config = settings(models=json.dumps(table), load_models="a.mar").serve
    assert config.models == ("a.mar",)
    assert config.model_settings == table


@pytest.mark.parametrize(
    "text", ["{'a': {'1.0': {'batchSize': 4}}}", "{a: {1.0: {batchSize: 4,}}}"]
)
def test_json_is_read_as_leniently_as_torchserve_does(text: str) -> None:
    assert settings(models=text).serve.model_settings == {"a": {"1.0": {"batchSize": 4}}}


def test_a_configuration_made_for_kserve_is_understood() -> None:
    versions = {
        "1.0": {
            "defaultVersion": True,
            "marName": "mnist.mar",
            "minWorkers": 1,
            "maxWorkers": 5,
            "batchSize": 1,
            "maxBatchDelay": 10,
            "responseTimeout": 120,
        }
    }
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"mnist": versions}}
    made = settings(
        inference_address="http://0.0.0.0:8085",
        management_address="http://0.0.0.0:8085",
        metrics_address="http://0.0.0.0:8082",
        grpc_inference_port="7070",
        grpc_management_port="7071",
        enable_metrics_api="true",
        metrics_mode="prometheus",
        metrics_config="/home/venv/lib/python3.9/site-packages/ts/configs/metrics.yaml",
        number_of_netty_threads="4",
        job_queue_size="10",
        enable_envvars_config="true",
        install_py_dep_per_model="true",
        service_envelope="kserve",
        model_store="/mnt/models/model-store",
        model_snapshot=json.dumps(snapshot),
    )
    assert made.serve.inference_address == made.serve.management_address
    assert made.serve.models == ("mnist=mnist.mar",)
    assert made.serve.metrics_config is None
    assert [notice.partition(" ")[0] for notice in made.notices] == [
        "/home/venv/lib/python3.9/site-packages/ts/configs/metrics.yaml",
        "number_of_netty_threads",
    ]


def test_a_snapshot_says_what_is_served_and_how() -> None:
    versions = {
        "1.0": {"marName": "a-1.mar", "defaultVersion": False, "minWorkers": 2},
        "2.0": {"marName": "a-2.mar", "defaultVersion": True, "minWorkers": 0},
    }
    snapshot = {"name": "x.cfg", "modelCount": 2, "models": {"a": versions}}
    config = settings(model_snapshot=json.dumps(snapshot), load_models="b.mar").serve
    assert config.models == ("a=a-1.mar", "a=a-2.mar")
    assert config.model_settings["a"]["1.0"] == {**versions["1.0"], "overYaml": True}


def test_a_keystore_wins_over_pem_files() -> None:
    made = settings(
        keystore="keys.p12",
        keystore_pass="secret",
        certificate_file="c.pem",
        private_key_file="k.pem",
    )
    assert made.keystore is not None
    assert (made.keystore.path, made.keystore.kind) == (Path("keys.p12"), "PKCS12")
    assert made.serve.certificate_file is None
    assert "secret" not in repr(made.keystore)
