"""Write the first files of each target's corpus anew: `python -m tests.fuzz.make_corpus`."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile

from flambeau import wire
from flambeau.archive import write_zip_entry
from flambeau.messages import (
    BatchDone,
    InferenceRequest,
    Input,
    Loaded,
    LoadProgress,
    LoadStage,
    Reply,
    RunBatch,
)
from tests.fuzz.targets import CORPUS

MANIFEST = json.dumps(
    {"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0", "handler": "h.py"}}
).encode()
FILES = {"MAR-INF/MANIFEST.json": MANIFEST, "h.py": b"def handle(d, c): return d\n", "w/a": b"1"}


def zipped(files: dict[str, bytes], *, deflate: bool = True) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        for name, content in files.items():
            write_zip_entry(opened, name, content, deflate=deflate)
    return target.getvalue()


def tarred(files: dict[str, bytes], *, link: bool = False, form: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(f"m/{name}")
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("m/link")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            opened.addfile(info)
    return target.getvalue()


def archives() -> dict[str, bytes]:
    sound = zipped(FILES)
    long = {"d/" + "n" * 120: b"x"}
    return {
        "deflated.zip": sound,
        "stored.zip": zipped(FILES, deflate=False),
        "empty.zip": zipped({}),
        "several-disks.zip": struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2) + zipped({}),
        "outside.zip": zipped({"../../outside": b"x"}),
        "twins.zip": zipped({"A": b"1", "a": b"2"}),
        "comment.zip": sound + b"comment",
        "beginning-lost.zip": sound[1:],
        "preceded.zip": b"#!/bin/sh\n" + sound,
        "zeros.zip": zipped({"zeros": bytes(300_000)}),
        "lying.zip": sound.replace(len(MANIFEST).to_bytes(4, "little"), b"\x05\0\0\0"),
        "gnu.tar": tarred(FILES),
        "pax.tar": tarred(FILES | long, form=tarfile.PAX_FORMAT),
        "long.tar": tarred(FILES | long),
        "link.tar": tarred(FILES, link=True),
    }


def forms() -> dict[str, bytes]:
    multipart = b"multipart/form-data; boundary=XX\n"
    data = b'--XX\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n'
    return {
        "json": b"application/json\n[1, 2]",
        "fields": b"application/x-www-form-urlencoded\na=1&b=%20&a=2",
        "damaged-fields": b"application/x-www-form-urlencoded\na=%ff&&=\xff",
        "one-part": multipart + data + b"Content-Type: text/plain\r\n\r\nhello\r\n--XX--\r\n",
        "two-parts": multipart + (data + b"\r\n1\r\n") * 2 + b"--XX--",
        "not-ended": multipart + data + b"\r\n1",
        "no-name": multipart + b"--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--",
        "no-boundary": b"multipart/form-data\n" + data,
        "odd-options": b'multipart/form-data; boundary*0="X\\"; x=\';;\n--X"--',
        "no-parts": multipart + b"--XX--\r\n",
    }


def frames() -> dict[str, bytes]:
    body = memoryview(b"answer")
    loaded = wire.encode(Loaded(load_s=1.0, warm_up_s=0.5, check="ok"))
    reply = Reply(status=200, phrase="", headers=[("a", "b")], body=body)
    done = wire.encode(BatchDone(batch_id=1, results=[reply], handler_s=0.1))
    part = Input(name="body", content_type=None, body=body)
    request = InferenceRequest(request_id="r", headers=[], inputs=[part])
    run = wire.encode(RunBatch(batch_id=2, requests=[request]))
    return {
        "life": b"\xff" + wire.encode(LoadProgress(LoadStage.LOADING)) + loaded + done,
        "byte-by-byte": b"\x01" + run,
        "too-long": b"\x40" + (1 << 40).to_bytes(8, "little") + b"x",
        "empty-payload": b"\x03" + bytes(8),
        "garbage": b"\x10" + (5).to_bytes(8, "little") + b"\xc1\xff\x00\x93\xc6",
        "deep": b"\x00" + (4000).to_bytes(8, "little") + b"\x91" * 4000,
        "cut": b"\x07" + done[:-3],
    }


def main() -> None:
    """Write every file."""
    for target, files in {"archive": archives(), "form": forms(), "frames": frames()}.items():
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
