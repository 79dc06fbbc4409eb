"""What a start loads: the models that the configuration names, and what is remembered of them.

A pure function. Its rules, in the order of their weight:

- what was registered while the server ran is served again, from the same archive;
- an archive that the configuration names is served as the configuration says, with the worker
  counts that were set at run time, unless it was removed at run time;
- one that was served because the configuration named it, and that it names no longer, is forgotten;
- a default that was chosen at run time stays; else the configuration decides, if it can;
- a model whose default version cannot be loaded is not served at all, rather than by another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flambeau.desired import Desired, VersionRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Configured:
    """An archive that the configuration names.

    Attributes:
        url: Its name in the store, or its address.
        model: What to call the model; None takes the manifest's name.
    """

    url: str
    model: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Serve one archive.

    Attributes:
        url: The archive.
        model: What to call the model; None takes the manifest's name.
        remembered: What is known of it; None for an archive that is new.
        at_startup: Whether the configuration names it.
        is_default: Whether it must answer by default, and its model is not served without it.
    """

    url: str
    model: str | None
    remembered: VersionRecord | None = None
    at_startup: bool = False
    is_default: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a start does.

    Attributes:
        loads: In this order; a model's default first.
        forgotten: Remembered versions that are not served any more.
        no_longer_removed: Of `Desired.removed`, what the configuration names no longer.
    """

    loads: tuple[Load, ...] = ()
    forgotten: tuple[VersionRecord, ...] = ()
    no_longer_removed: frozenset[tuple[str, str]] = frozenset()


def plan_start(desired: Desired, configured: Sequence[Configured]) -> Plan:
    """Reconcile what is remembered with what is configured.

    Args:
        desired: What is remembered.
        configured: What the configuration names, in its order; `all` has been resolved.
    """
    wanted = [each for each in configured if not _is_removed(each, desired)]
    records = [record for entry in desired.models.values() for record in entry.versions]
    kept = [
        record
        for record in records
        if not record.at_startup or any(_names(each, record) for each in wanted)
    ]
    remembered = [
        Load(
            url=record.url,
            model=_configured_name(wanted, record) if record.at_startup else record.model,
            remembered=record,
            at_startup=record.at_startup,
            is_default=desired.models[record.model].default == record.version,
        )
        for record in kept
    ]
    new = [
        Load(url=each.url, model=each.model, at_startup=True)
        for each in wanted
        if not any(_names(each, record) for record in kept)
    ]
    places = {each.url: place for place, each in reversed([*enumerate(wanted)])}

    def order(load: Load) -> tuple[bool, int]:
        return not load.is_default, places.get(load.url, len(places))

    urls = {each.url for each in configured}
    return Plan(
        loads=tuple(sorted((*remembered, *new), key=order)),
        forgotten=tuple(record for record in records if record not in kept),
        no_longer_removed=frozenset(each for each in desired.removed if each[1] not in urls),
    )


def _names(configured: Configured, record: VersionRecord) -> bool:
    """Whether the configuration means this version."""
    return configured.url == record.url and configured.model in {None, record.model}


def _configured_name(wanted: Sequence[Configured], record: VersionRecord) -> str | None:
    return next(each.model for each in wanted if _names(each, record))


def _is_removed(configured: Configured, desired: Desired) -> bool:
    return any(
        url == configured.url and configured.model in {None, model}
        for model, url in desired.removed
    )
