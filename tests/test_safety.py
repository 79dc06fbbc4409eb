"""What shipped code never does, read from its source.

It does not run data as code, compare secrets by `==`, or measure time by a clock that may be set.
A rule has one function below; a place that may break it is in `ALLOWED` with the reason, and a
place that no longer breaks it must leave that table.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("server", "handlers", "training", "deploy")
Rule = Callable[[ast.AST], str | None]

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "builtins.eval", "builtins.exec"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader", "CSafeLoader"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
WALL_CLOCKS = {
    *("time.time", "time.time_ns", "date.today"),
    *("datetime.now", "datetime.today", "datetime.utcnow"),
}
SECRET = re.compile(r"(^|_)(tokens?|digests?|secrets?|passwords?|hmac|mac|api_key)$", re.IGNORECASE)

# (file, rule) -> why it may
ALLOWED = {
    ("server/flambeau/weights/pickled.py", "reads more than tensors"): (
        "the one place that unpickles, for a model whose YAML asks for it"
    ),
    ("server/flambeau/exporting/sharded.py", "imports an unpickler"): (
        "reads descriptions of shards, and makes nothing but what describes tensors"
    ),
    ("training/checkpoint.py", "imports an unpickler"): (
        "names the error that `torch.load` raises at what is no tensor; reads nothing by it"
    ),
    ("server/flambeau/state.py", "compares a secret by =="): (
        "the file's own checksum, beside what it is of"
    ),
    ("server/flambeau/state_snapshot.py", "compares a secret by =="): (
        "the snapshot's checksum, which is in it"
    ),
    ("training/continuing.py", "compares a secret by =="): (
        "the digest of a data set, which whoever resumes a run has anyway"
    ),
    **dict.fromkeys(
        (
            (f"server/flambeau/{name}", "reads the wall clock")
            for name in (
                *("exporting/module.py", "state.py", "worker_slot.py", "torchserve/archiver.py"),
                *("metrics.py", "metrics_board.py", "handler_metric.py"),
                *("torchserve/metrics/old.py", "torchserve/vllm_handler.py"),
                *("torchserve/log_files.py", "torchserve/snapshots.py"),
            )
        ),
        "writes down for people when something was",
    ),
    ("server/flambeau/tokens.py", "reads the wall clock"): (
        "keys end at a time that is told; they end by the clock that nobody sets, too"
    ),
    ("server/flambeau/downloads.py", "reads the wall clock"): "requests to S3 are dated",
    ("server/flambeau/unpacked_store.py", "reads the wall clock"): (
        "what nobody has used for days is removed, and unpacked again where that was wrong"
    ),
}

# one line each of what no file here should hold; written so that this file does not hold them
SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY" + "-----"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"),
    "a GitLab token": re.compile(r"\bglpat-[\w-]{20}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{34}\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}"),
    "a Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a PyPI token": re.compile(r"\bpypi-AgE[\w-]{50,}"),
}
# these are Amazon's own examples, from its documentation
EXAMPLES = {"AKIAIOSFODNN7EXAMPLE", "AKIDEXAMPLE"}
NOT_OURS = {
    ".bench-peers",
    ".fuzz",
    ".git",
    ".venv",
    "__pycache__",
    "runs",
    "mutants",
    "build",
    "dist",
}
TEXT = {".cfg", ".ini", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def dotted(node: ast.AST) -> str:
    """`torch.jit.load` of an attribute chain; empty when it does not start at a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def imports_an_unpickler(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            modules = [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            modules = [module]
        case _:
            return None
    return next((name for name in modules if name.partition(".")[0] in UNPICKLERS), None)


def runs_text_as_code(node: ast.AST) -> str | None:
    return (
        dotted(node.func) if isinstance(node, ast.Call) and dotted(node.func) in RUNNERS else None
    )


def reads_yaml_with_objects(node: ast.AST) -> str | None:
    """`yaml.load` with anything but a safe loader, and the loads that have none."""
    if not isinstance(node, ast.Call):
        return None
    name = dotted(node.func)
    if name in {"yaml.load", "yaml.load_all"}:
        given = [*map(ast.unparse, node.args[1:2]), keywords(node).get("Loader", "")]
        return None if SAFE_LOADERS & set(given) else name
    return name if re.fullmatch(r"yaml\.(unsafe|full)_load(_all)?", name) else None


def reads_more_than_tensors(node: ast.AST) -> str | None:
    """`torch.load` without `weights_only=True`, and arrays of objects."""
    if not isinstance(node, ast.Call):
        return None
    name, given = dotted(node.func), keywords(node)
    if name == "torch.load" and given.get("weights_only") != "True":
        return name
    if name in {"np.load", "numpy.load"} and given.get("allow_pickle", "False") != "False":
        return name
    return None


def extracts_unseen(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(attr="extractall" | "unpack_archive" as name):
            return name
        case _:
            return None


def starts_a_shell(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    shell = keywords(node).get("shell", "False") != "False"
    return dotted(node.func) or "a call" if shell or dotted(node.func) in SHELLS else None


def compares_a_secret(node: ast.AST) -> str | None:
    """`==` where a side is named like a secret; `hmac.compare_digest` is equally slow for all."""
    if not isinstance(node, ast.Compare):
        return None
    if not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
        return None
    for side in (node.left, *node.comparators):
        name = side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "")
        if SECRET.search(name):
            return ast.unparse(node)
    return None


def trusts_any_certificate(node: ast.AST) -> str | None:
    if dotted(node) == "ssl.CERT_NONE":
        return "ssl.CERT_NONE"
    if isinstance(node, ast.Call) and keywords(node).get("verify") == "False":
        return dotted(node.func)
    return None


def reads_the_wall_clock(node: ast.AST) -> str | None:
    """What jumps when the machine's time is set; `time.monotonic` does not."""
    return dotted(node) if dotted(node) in WALL_CLOCKS else None


RULES: dict[str, Rule] = {
    "imports an unpickler": imports_an_unpickler,
    "runs text as code": runs_text_as_code,
    "reads YAML with objects": reads_yaml_with_objects,
    "reads more than tensors": reads_more_than_tensors,
    "extracts unseen": extracts_unseen,
    "starts a shell": starts_a_shell,
    "compares a secret by ==": compares_a_secret,
    "trusts any certificate": trusts_any_certificate,
    "reads the wall clock": reads_the_wall_clock,
}
# what each rule must find, so that none of them is blind
BROKEN = {
    "imports an unpickler": ["import pickle", "from dill import loads", "import marshal as m"],
    "runs text as code": ["eval(text)", "builtins.exec(text)"],
    "reads YAML with objects": [
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load_all(text)",
    ],
    "reads more than tensors": ["torch.load(path)", "torch.load(p, weights_only=flag)"],
    "extracts unseen": ["archive.extractall(here)", "shutil.unpack_archive(path)"],
    "starts a shell": ["subprocess.run(line, shell=True)", "os.system(line)"],
    "compares a secret by ==": ["shown == self.token", "digest != other"],
    "trusts any certificate": ["context.verify_mode = ssl.CERT_NONE", "httpx.get(u, verify=False)"],
    "reads the wall clock": ["started_at = time.time()", "clock=datetime.now", "time.time_ns()"],
}
SOUND = """
import pickletools
model.eval()
yaml.safe_load(text)
yaml.load(text, Loader=yaml.SafeLoader)
torch.load(path, map_location="cpu", weights_only=True)
np.load(path)
subprocess.run(["ls"], shell=False)
hmac.compare_digest(token, shown)
num_tokens_left == 3
time.monotonic()
time.strftime("%Y", time.gmtime(record.created))
token is None
token in vocabulary
"""


def findings(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Names of rules that something in a module breaks, and the line with what it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Compare | ast.Import | ast.ImportFrom | ast.Attribute):
            for name, rule in RULES.items():
                if (found := rule(node)) is not None:
                    yield name, f"line {node.lineno}: {found}"


@cache
def broken_rules() -> dict[tuple[str, str], str]:
    """By file and rule; generated modules are protobuf's business."""
    paths = sorted(path for top in SHIPPED for path in (ROOT / top).rglob("*.py"))
    return {
        (path.relative_to(ROOT).as_posix(), name): found
        for path in paths
        if not path.name.endswith("_pb2.py")
        for name, found in findings(ast.parse(path.read_text(encoding="utf-8")))
    }


@pytest.mark.parametrize("name", RULES)
def test_shipped_code_never(name: str) -> None:
    breaking = {path: found for (path, rule), found in broken_rules().items() if rule == name}
    allowed = {path for path, rule in ALLOWED if rule == name}
    assert breaking.keys() - allowed == set(), breaking
    assert allowed - breaking.keys() == set(), "these need no exemption any more"


@pytest.mark.parametrize("name", RULES)
def test_each_rule_finds_what_it_is_for(name: str) -> None:
    for line in BROKEN[name]:
        assert name in dict(findings(ast.parse(line))), line
    assert name not in dict(findings(ast.parse(SOUND)))


def test_no_file_holds_a_secret() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in _files()
        for what, pattern in SECRETS.items()
        for match in pattern.findall(path.read_text(encoding="utf-8", errors="replace"))
        if match not in EXAMPLES
    ]
    assert found == []


def test_each_kind_of_secret_would_be_found() -> None:
    letters = "Ab1" * 30
    would_be = {
        "a private key": "-----BEGIN EC PRIVATE " + "KEY-----",
        "an AWS access key": "AKIA" + "B2" * 8,
        "a GitHub token": "ghp_" + letters[:36],
        "a GitLab token": "glpat-" + letters[:20],
        "a Hugging Face token": "hf_" + letters[:34],
        "a Slack token": "xoxb-" + letters[:12],
        "a Google key": "AIza" + letters[:35],
        "a PyPI token": "pypi-" + "AgE" + letters[:60],
    }
    assert would_be.keys() == SECRETS.keys()
    for what, text in would_be.items():
        assert SECRETS[what].search(f"key = '{text}'"), what


def _files() -> Iterator[Path]:
    """Text files of the checkout, without what builds and runs leave behind."""
    for path in sorted(ROOT.iterdir()):
        if path.name in NOT_OURS:
            continue
        if path.is_dir():
            inner = (p for p in path.rglob("*") if not NOT_OURS & set(p.parts))
            yield from (p for p in inner if p.is_file() and p.suffix in TEXT)
        elif path.is_file():
            yield path
