"""`table_classifier`: a table's row in, labels with probabilities out.

The body is a JSON object of values by column, in the units of the training data:

    curl -H 'content-type: application/json' -d '{"age": 3, "colour": "red"}' .../predictions/fruit
    {"raw": 0.03, "ripe": 0.97}

The archive's `columns.json` says which columns the model takes and which categories it knows;
`flambeau export` writes it for a checkpoint of `training/` whose table has categories. The answer
has all classes, in the model's order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau.answers import class_shares
from flambeau.errors import InvalidInput
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.table_columns import TableColumns, read_table_columns

if TYPE_CHECKING:
    from flambeau.codec import Row
    from flambeau.context import Context


class TableClassifier(SampleHandler):
    """Classifies rows of a table.

    Attributes:
        columns: What the archive says of them.
    """

    columns: TableColumns

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.columns = read_table_columns(Path(context.system_properties["model_dir"]))

    def decode(self, row: Row, idx: int) -> Sample:
        """One row's numbers, float32, (F,)."""
        value = self.value(row, "data" if "data" in row else "body", idx)
        if not isinstance(value, dict):
            raise InvalidInput(
                f"the request is a {type(value).__name__}; send a JSON object of values by column"
            )
        return (torch.tensor(self.columns.numbers(value)),)

    def postprocess(self, data: Any) -> list[dict[str, float]]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to probabilities by label."""
        return class_shares(data, mapping=self.mapping)
