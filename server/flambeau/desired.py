"""What a server should be serving, as a value: written down whole, and read at the next start.

Each change makes a new value. What is observed, such as processes and their health, is not in it,
nor are parts of workflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flambeau.model_settings import ModelSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRecord:
    """One version, and how to load it again.

    Attributes:
        model: The model's name.
        version: Its number.
        url: The archive as the registration named it.
        digest: SHA-256 of the archive, hex.
        settings: What it runs with.
        handler: Overrides the manifest's handler when not None.
        runtime: Overrides the manifest's runtime.
        at_startup: Whether the configuration names its archive; it then says how to serve it.
        is_scaled: Whether its worker counts were set while it served.
    """

    model: str
    version: str
    url: str
    digest: str
    settings: ModelSettings
    handler: str | None = None
    runtime: str = "python"
    at_startup: bool = False
    is_scaled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """One model's versions.

    Attributes:
        default: The version that answers by default; one of `versions`.
        is_chosen: Whether the default was chosen while the model was served.
        versions: Oldest registration first, at least one.
    """

    default: str
    is_chosen: bool = False
    versions: tuple[VersionRecord, ...] = ()

    def version(self, number: str) -> VersionRecord | None:
        return next((each for each in self.versions if each.version == number), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desired:
    """All models.

    Attributes:
        models: By name.
        removed: Models and urls of archives that the configuration names and that were removed
            while the server ran.
    """

    models: Mapping[str, ModelRecord] = field(default_factory=dict[str, ModelRecord])
    removed: frozenset[tuple[str, str]] = frozenset()

    def version(self, model: str, number: str) -> VersionRecord | None:
        entry = self.models.get(model)
        return entry.version(number) if entry else None

    def with_version(self, record: VersionRecord) -> Desired:
        """With one more version, or a new record of one; a model's first is its default."""
        entry = self.models.get(record.model) or ModelRecord(default=record.version)
        if entry.version(record.version) is None:
            versions = (*entry.versions, record)
        else:
            versions = tuple(
                record if each.version == record.version else each for each in entry.versions
            )
        return replace(
            self._with_model(record.model, replace(entry, versions=versions)),
            removed=self.removed - {(record.model, record.url)},
        )

    def with_default(self, model: str, number: str, *, is_chosen: bool = True) -> Desired:
        """With another default; the same where there is no such version."""
        if self.version(model, number) is None:
            return self
        entry = replace(self.models[model], default=number, is_chosen=is_chosen)
        return self._with_model(model, entry)

    def with_workers(self, model: str, number: str, *, low: int, high: int) -> Desired:
        """With other worker counts of a version; the same where there is no such version."""
        record = self.version(model, number)
        if record is None:
            return self
        settings = record.settings.with_workers(low, high)
        return self.with_version(replace(record, settings=settings, is_scaled=True))

    def without(self, model: str, number: str, *, for_good: bool = True) -> Desired:
        """Without a version, and without its model if it was the last.

        Args:
            model: The model's name.
            number: The version.
            for_good: Not to be served at the next start either, if the configuration names it.
        """
        record = self.version(model, number)
        if record is None:
            return self
        entry = self.models[model]
        versions = tuple(each for each in entry.versions if each is not record)
        models = {name: each for name, each in self.models.items() if name != model}
        removed = self.removed | ({(model, record.url)} if record.at_startup else set())
        removed = removed if for_good else self.removed
        rest = replace(self, models=models, removed=removed)
        if not versions:
            return rest
        if entry.default == number:
            entry = ModelRecord(default=versions[-1].version)
        entry = replace(entry, versions=versions)
        return replace(rest, models={**models, model: entry})

    def _with_model(self, name: str, entry: ModelRecord) -> Desired:
        return replace(self, models={**self.models, name: entry})
