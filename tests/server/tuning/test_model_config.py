from __future__ import annotations

import pytest
import yaml

from flambeau.tuning.model_config import with_settings


def test_keys_are_replaced_or_added_and_the_rest_stays_as_it_was_written() -> None:
    text = "# of mine\nbatchSize: 4  # measured once\nhandler:\n  batchSize: 7 # its own\n"
    assert with_settings(text, {"batchSize": 16, "minWorkers": 2}) == (
        "# of mine\nbatchSize: 16\nhandler:\n  batchSize: 7 # its own\nminWorkers: 2\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but words",
        "handler: {a: 1}",
        "{batchSize: 4, handler: {a: 1}}",
        "batchSize:\n  4\nhandler: {a: 1}\n",
        '"batchSize": 4\n',
        "---\nhandler: {a: 1}\n...\n",
        "handler: |\n  batchSize: 3\n\n  no end",
    ],
)
def test_any_mapping_says_the_same_and_the_settings(text: str) -> None:
    before = yaml.safe_load(text) or {}
    after = yaml.safe_load(with_settings(text, {"batchSize": 8, "optimize": "off"}))
    assert after == {**before, "batchSize": 8, "optimize": "off"}
