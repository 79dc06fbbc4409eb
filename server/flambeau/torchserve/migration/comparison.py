"""Sending the same requests to TorchServe and to us, and showing what differs."""

from __future__ import annotations

import json
import mimetypes
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.numpy

from flambeau.archive import read_file, read_manifest
from flambeau.errors import ArchiveError, ConfigError
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature
from flambeau.torchserve.compare import Outcome, Verdict, judge
from flambeau.torchserve.exchange import Answer, Request
from flambeau.torchserve.known_differences import KNOWN_DIFFERENCES
from flambeau.torchserve.launch import Port
from flambeau.torchserve.replay import replay

_MAX_SAMPLES: Final = 4
_JSON: Final = (("Content-Type", "application/json"),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One request's comparison.

    Attributes:
        verdict: What differs.
        theirs_ms: The median of their times, in milliseconds.
        ours_ms: The median of ours.
    """

    verdict: Verdict
    theirs_ms: float
    ours_ms: float


def requests_of_models(models: Mapping[str, Path]) -> list[Request]:
    """What can be asked without being told: health, descriptions, and samples of archives."""
    requests = [Request(name="ping", port=Port.INFERENCE, method="GET", target="/ping")]
    for model, archive in models.items():
        target = f"/models/{model}"
        requests.append(
            Request(name=f"describe {model}", port=Port.MANAGEMENT, method="GET", target=target)
        )
        requests += _samples(model, archive)
    return requests


def request_of_file(model: str, file: Path) -> Request:
    """A prediction whose body is a file; its type is guessed from the file's name.

    Raises:
        ConfigError: There is no such file.
    """
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    try:
        body = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    return Request(
        name=f"{model} {file.name}",
        port=Port.INFERENCE,
        method="POST",
        target=f"/predictions/{model}",
        headers=(("Content-Type", kind),),
        body=body,
    )


def compare_servers(
    requests: Sequence[Request],
    *,
    theirs: Mapping[Port, str],
    ours: Mapping[Port, str],
    num_repeats: int,
    timeout_s: float,
) -> list[Compared]:
    """Send each request to both servers, `num_repeats` times; the last answers are compared."""
    rounds = [
        (
            replay(requests, theirs, values={}, timeout_s=timeout_s),
            replay(requests, ours, values={}, timeout_s=timeout_s),
        )
        for _ in range(num_repeats)
    ]
    compared: list[Compared] = []
    for index, request in enumerate(requests):
        their_answers = [their[index].answer for their, _ in rounds]
        our_answers = [our[index].answer for _, our in rounds]
        verdict = judge(
            request,
            their_answers[-1],
            our_answers[-1],
            scenario="compare",
            known=KNOWN_DIFFERENCES,
        )
        compared.append(
            Compared(
                verdict=verdict, theirs_ms=_median(their_answers), ours_ms=_median(our_answers)
            )
        )
    return compared


def table(compared: Iterable[Compared]) -> str:
    """One line per request with both latencies, below it what differs."""
    lines: list[str] = []
    for each in compared:
        verdict = each.verdict
        name = verdict.where.partition("/")[2]
        times = f"TorchServe {each.theirs_ms:.1f} ms, Flambeau {each.ours_ms:.1f} ms"
        lines.append(f"{verdict.outcome.value:<16}  {name}  ({times})")
        lines += [f"    {difference}" for difference in verdict.differences]
        lines += [f"    known difference {known.id}: {known.reason}" for known in verdict.known]
    return "\n".join(lines)


def all_as_meant(compared: Iterable[Compared]) -> bool:
    """Whether no difference is unexpected."""
    return all(each.verdict.outcome is not Outcome.UNEXPECTED for each in compared)


def _samples(model: str, archive: Path) -> list[Request]:
    try:
        content = read_file(archive, SAMPLES_PATH)
        signature = read_file(archive, SIGNATURE_PATH)
        read_manifest(archive)
    except ArchiveError:
        return []  # the server will say what is wrong with it
    if content is None or signature is None:
        return []
    tensors = safetensors.numpy.load(content)
    names = [spec.name for spec in Signature.from_json(signature).inputs]
    inputs = [tensors[f"input_{index}"].tolist() for index in range(len(names))]
    return [
        Request(
            name=f"{model} sample {number}",
            port=Port.INFERENCE,
            method="POST",
            target=f"/predictions/{model}",
            headers=_JSON,
            body=json.dumps(
                values[0] if len(names) == 1 else dict(zip(names, values, strict=True))
            ).encode(),
        )
        for number, values in enumerate(list(zip(*inputs, strict=True))[:_MAX_SAMPLES])
    ]


def _median(answers: Iterable[Answer]) -> float:
    return statistics.median(answer.duration_s for answer in answers) * 1000
