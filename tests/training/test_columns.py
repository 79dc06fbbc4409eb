from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from flambeau.errors import ConfigError
from training.columns import MAX_CHARACTERS, from_values, read_columns
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", '\ufeffname,size\n"a, b",1.50\n\nc,2\n'),
        ("x.CSV", 'name,size\r\n"a, b",1.50\r\n\r\nc,2'),
        ("x.tsv", "name\tsize\na, b\t1.50\n\nc\t2\n"),
        ("x.jsonl", '{"name": "a, b", "size": 1.50}\n\n{"size": 2, "name": "c"}\n'),
        ("x.ndjson", '{"name": "a, b", "size": "1.50"}\r\n\r\n{"name": "c", "size": 2}'),
    ],
)
def test_every_format_gives_the_same_texts_with_their_places(
    tmp_path: Path, name: str, content: str
) -> None:
    columns = read_columns(written(tmp_path, name, content))
    assert columns.names == ["name", "size"]
    assert columns.rows == [["a, b", "1.50"], ["c", "2"]]
    begin = 1 if "json" in name else 2  # after the names
    assert columns.where(0, 0).endswith(f"{name}, line {begin}, column 'name'")
    assert columns.where(1, 1).endswith(f"{name}, line {begin + 2}, column 'size'")


def test_what_json_lines_leave_out_is_empty(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", '{"a": true, "b": null}\n{"a": "\u2028"}\n')
    assert read_columns(path).rows == [["True", ""], ["\u2028", ""]]


def test_values_of_parquet_become_texts_without_loss(tmp_path: Path) -> None:
    values: dict[str, list[object]] = {"n": [0.1, 1e300, None], "s": ["a", b"b", True]}
    columns = from_values(tmp_path / "x.parquet", values)
    assert columns.rows == [["0.1", "a"], ["1e+300", "b"], ["", "True"]]
    assert columns.where(2, 0).endswith("x.parquet, row 3, column 'n'")


def test_parquet_without_pyarrow_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'flambeau\[parquet\]'"):
        read_columns(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "x.csv has no rows; give some"),
        ("x.csv", "a,b\n", "x.csv has no rows; give some"),
        ("x.csv", "a,,c\n1,2,3\n", "line 1: column 2 has no name"),
        ("x.csv", "a,a\n1,2\n", "line 1: two columns are called 'a'"),
        ("x.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 values, and line 1 names 2 columns"),
        ("x.csv", 'a,b\n1,"2\n', "x.csv, line 2: unexpected end of data; is a quote missing"),
        ("x.csv", "a,b\n" + "x" * 200_000 + ",1\n", "line 2: field larger than field limit"),
        ("x.csv", b"a,b\n1,2\n3,gr\xfc\n", "line 3: byte 0xfc is not UTF-8"),
        ("x.jsonl", "", "x.jsonl has no rows"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("x.jsonl", '{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        ("x.jsonl", '{"a": 1}\n{"b": 1}\n', "line 2 has b, which the first line has not"),
        ("x.jsonl", '{"a": [1]}\n', "line 1, 'a' is not one value"),
        ("x.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("x.jsonl", " " * MAX_CHARACTERS + "[1]", "line 1 has 1,000,003 characters"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_columns(written(tmp_path, name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_another_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: No such file"):
        read_columns(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"use a file ending in \.csv, \.tsv"):
        read_columns(tmp_path / "x.xlsx")


def test_a_missing_column_is_named_beside_the_nearest(tmp_path: Path) -> None:
    columns = read_columns(written(tmp_path, "x.csv", "label,text\n1,2\n"))
    assert columns.index("text", setting="s") == 1
    with pytest.raises(
        ConfigError, match=r"data\.label_column is 'labels', .*did you mean 'label'"
    ):
        columns.index("labels", setting="data.label_column")
    with pytest.raises(ConfigError, match="use one of label, text"):
        columns.index("zzz", setting="data.label_column")
