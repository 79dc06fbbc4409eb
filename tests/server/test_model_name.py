from __future__ import annotations

import pytest

from flambeau.errors import BadParameter
from flambeau.model_name import check_model_name


@pytest.mark.parametrize("name", ["resnet-18", "a", "a.b_c", "Größe", "a b", "a:b", "x" * 255])
def test_a_name_is_what_a_path_can_say(name: str) -> None:
    check_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "...", "a/b", "/a", "a\\b", " a", "a ", "a\0", "a\r\nb", "\x1b[31m"),
        *("\x7f", "\u202eba", "a\u200b", "a\u2028b", "\x85", "\ud800", "x" * 256),
    ],
)
def test_what_leads_elsewhere_or_hides_itself_is_no_name(name: str) -> None:
    with pytest.raises(BadParameter, match="model_name"):
        check_model_name(name)
