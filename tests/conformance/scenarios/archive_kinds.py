"""Archives of every format, weights of every kind, and archives that are wrong."""

from __future__ import annotations

from tests.conformance.scenario import JSON_TYPE, Scenario, ask, infer, manage

_FORMATS = tuple(
    request
    for url, model in (
        ("stored.mar", "stored"),
        ("tarred.tar.gz", "tarred"),
        ("unpacked", "unpacked"),
        ("function.mar", "function"),
        ("handler_without_suffix.mar", "handler_without_suffix"),
        ("old_manifest.mar", "old_manifest"),
        ("no_version.mar", "no_version"),
    )
    for request in (
        manage(f"register {model}", "POST", f"/models?url={url}&initial_workers=1"),
        infer(f"predict {model}", f"/predictions/{model}", b"x"),
        manage(f"describe {model}", "GET", f"/models/{model}"),
        manage(f"unregister {model}", "DELETE", f"/models/{model}"),
    )
)

_PLACES = (
    manage("register by http", "POST",
           "/models?url=<<files_url>>/plain.mar&initial_workers=1"),
    infer("predict what http brought", "/predictions/plain", b"x"),
    manage("describe what http brought", "GET", "/models/plain"),
    manage("unregister what http brought", "DELETE", "/models/plain"),
    manage("register by file", "POST",
           "/models?url=file://<<files_directory>>/plain.mar&initial_workers=1"),
    infer("predict what the file brought", "/predictions/plain", b"x"),
    manage("unregister what the file brought", "DELETE", "/models/plain"),
    manage("register by http what is in the store", "POST",
           "/models?url=<<files_url>>/stored.mar&initial_workers=0"),
    manage("register by http what is not there", "POST", "/models?url=<<files_url>>/absent.mar"),
    manage("register by http from nowhere", "POST", "/models?url=http://127.0.0.1:9/a.mar"),
    manage("register by file what is not there", "POST",
           "/models?url=file:///absent/absent.mar"),
    manage("register by s3", "POST", "/models?url=s3://bucket/a.mar"),
    manage("register by ftp", "POST", "/models?url=ftp://127.0.0.1/a.mar"),
    manage("register by a path upwards", "POST", "/models?url=file:///tmp/../etc/passwd"),
    manage("register by an absolute path", "POST", "/models?url=<<store>>/stored.mar"),
)  # fmt: skip

_WEIGHTS = (
    manage("register eager", "POST", "/models?url=eager.mar&initial_workers=1"),
    infer("predict eager", "/predictions/eager", b"[1, 2]", headers=JSON_TYPE),
    manage("register scripted", "POST", "/models?url=scripted.mar&initial_workers=1"),
    infer("predict scripted", "/predictions/scripted", b"[1, 2]", headers=JSON_TYPE),
    manage("register rows", "POST", "/models?url=rows.mar&initial_workers=1"),
    ask("predict rows", "/predictions/rows", [1, 2]),
    ask("predict rows of a field", "/predictions/rows", {"a": 1}),
    infer("predict rows of text", "/predictions/rows", b"text"),
    ask("predict rows after the failure", "/predictions/rows", [3, 0.5]),
    ask("explain rows", "/explanations/rows", [1, 2]),
    ask("explain rows by a version", "/explanations/rows/1.0", [1, 2]),
    manage("describe rows customized", "GET", "/models/rows?customized=true"),
    manage("describe a version of rows customized", "GET", "/models/rows/1.0?customized=true"),
    manage("register eager rows", "POST", "/models?url=eager_rows.mar&initial_workers=1"),
    ask("predict eager rows", "/predictions/eager_rows", [1, 2]),
    manage("describe eager rows customized", "GET", "/models/eager_rows?customized=true"),
    manage("unregister eager", "DELETE", "/models/eager"),
)

_WRONG = (
    *(
        manage(f"register {name}", "POST", f"/models?url={name}.mar&initial_workers=0")
        for name in (
            "no_zip",
            "no_manifest",
            "no_model_name",
            "no_model",
            "no_handler",
            "bad_runtime",
            "manifest_no_json",
        )
    ),
    manage("register a manifest's absence with a name", "POST",
           "/models?url=no_manifest.mar&model_name=named&handler=plain.py&initial_workers=1"),
    infer("predict without a manifest", "/predictions/named", b"x"),
    manage("describe without a manifest", "GET", "/models/named"),
    *(
        manage(f"register {name} with a worker", "POST",
               f"/models?url={name}.mar&initial_workers=1")
        for name in (
            "missing_handler_file",
            "raises_value_error",
            "raises_runtime_error",
            "raises_memory_error",
            "two_classes",
            "syntax_error",
            "missing_module",
            "no_weights",
        )
    ),
    manage("nothing of it is left", "GET", "/models/raises_value_error"),
    manage("list after all that", "GET", "/models"),
)  # fmt: skip

SCENARIOS = (
    Scenario(
        name="archive_kinds",
        archives=(
            "stored", "tarred", "unpacked", "function", "handler_without_suffix", "old_manifest",
            "no_version", "eager", "scripted", "rows", "eager_rows", "no_zip", "no_manifest",
            "no_model_name", "no_model", "no_handler", "bad_runtime", "manifest_no_json",
            "missing_handler_file", "raises_value_error", "raises_runtime_error",
            "raises_memory_error", "two_classes", "syntax_error", "missing_module", "no_weights",
        ),
        outside=("plain", "stored"),
        requests=_FORMATS + _PLACES + _WEIGHTS + _WRONG,
        timeout_s=60,
    ),
)  # fmt: skip
