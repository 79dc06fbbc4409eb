"""What the front and a template say to each other, as plain data.

Each message is one datagram of a `SOCK_SEQPACKET` pair. The front sends `Fork`, with three open
files: the new process's end of its socket, its stdout and its stderr. The template answers each in
turn, and says `TemplateReady` once before. Both close the socket to say good-bye.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from flambeau.errors import WorkerError
from flambeau.messages import LoadModel

MAX_DATAGRAM_BYTES: Final = 1 << 16


class TemplateError(WorkerError):
    """A template cannot do what it was asked for; the worker can be started without it."""


class TemplateReady(msgspec.Struct, frozen=True, tag=True):
    """Everything is imported."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Fork one worker, or another template.

    Attributes:
        is_template: Whether it is to be a template, which then says `TemplateReady` itself.
    """

    is_template: bool


class Preload(msgspec.Struct, frozen=True, tag=True):
    """Load a model, so that the workers forked from now on have it.

    Attributes:
        load: What they will be told to load.
        only_builtin: Refuse if the handler is not one of Flambeau's own.
    """

    load: LoadModel
    only_builtin: bool


class Preloaded(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded, and nothing about it stands in the way of a fork."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The new process runs, and its parent is the front.

    Attributes:
        pid: Its process id.
    """

    pid: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was asked for was not done.

    Attributes:
        reason: Why, for people.
    """

    reason: str


ToTemplate: TypeAlias = Fork | Preload
FromTemplate: TypeAlias = TemplateReady | Forked | Preloaded | Refused

_encoder = msgspec.msgpack.Encoder()
_to_template: msgspec.msgpack.Decoder[ToTemplate] = msgspec.msgpack.Decoder(ToTemplate)
_from_template: msgspec.msgpack.Decoder[FromTemplate] = msgspec.msgpack.Decoder(FromTemplate)


def encode(message: ToTemplate | FromTemplate) -> bytes:
    """One datagram."""
    return _encoder.encode(message)


def decode_to_template(datagram: bytes) -> ToTemplate:
    """Read what the front sent."""
    return _to_template.decode(datagram)


def decode_from_template(datagram: bytes) -> FromTemplate:
    """Read what a template sent.

    Raises:
        TemplateError: It is not one of a template's messages.
    """
    try:
        return _from_template.decode(datagram)
    except msgspec.MsgspecError as error:
        raise TemplateError(f"a template sent no message: {error}") from error
