from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.cli import main
from flambeau.testing import make_archive

GOOD = "def handle(data, context): return data"


def configuration(directory: Path, text: str) -> Path:
    path = directory / "config.properties"
    path.write_text(f"model_store={directory}\n{text}\n")
    return path


def test_a_store_and_a_configuration_that_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_archive(tmp_path, name="good", handler=GOOD)
    code = main(["migrate", "check", str(configuration(tmp_path, "job_queue_size=7"))])
    printed = capsys.readouterr().out
    assert code == 0
    assert "works              job_queue_size" in printed
    assert "good-1.0.mar" in printed
    assert "0 unsupported" in printed


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("plugins_path=/plugins", 1, "unsupported        plugins_path"),
        ("vmargs=-Xmx1g", 0, "works differently  vmargs"),
        ("no_such_key=1", 0, "works differently  no_such_key"),
        ("job_queue_size=many", 1, "job_queue_size is 'many'"),
        ("metrics_config=/absent.yaml", 1, "there is no /absent.yaml"),
    ],
)
def test_each_key_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    assert main(["migrate", "check", str(configuration(tmp_path, line))]) == code
    assert said in capsys.readouterr().out


def test_an_archive_that_does_not_work_is_exit_code_1(tmp_path: Path) -> None:
    path = make_archive(tmp_path, name="m", handler="import not_there_at_all")
    assert main(["migrate", "check", str(path)]) == 1
    assert main(["migrate", "check", str(tmp_path)]) == 1


def test_a_place_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "check", str(tmp_path / "absent")]) == 2
    assert "absent does not exist" in capsys.readouterr().err
