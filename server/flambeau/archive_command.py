"""`flambeau archive keygen | sign | verify | show`: flags in, a few lines out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.config import SignaturePolicy

if TYPE_CHECKING:
    from collections.abc import Callable


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `flambeau archive`."""
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    show = add("show", _show, "print what an archive says about itself")
    keygen = add("keygen", _keygen, "make a key that signs archives, and its public half")
    keygen.add_argument("key", type=Path, help="the private key's file, e.g. release.pem")
    sign = add("sign", _sign, "list an archive's files and sign the list")
    sign.add_argument("--key", type=Path, required=True, help="the private key, PEM")
    verify = add("verify", _verify, "check an archive's files and who has signed them")
    verify.add_argument(
        "--trusted-keys",
        nargs="+",
        required=True,
        metavar="PATH",
        help="public keys, and directories of them",
    )
    verify.add_argument(
        "--revoked-keys", nargs="+", default=[], metavar="ID", help="ids of keys not to trust"
    )
    for command in (show, sign, verify):
        command.add_argument("archive", type=Path)


def _show(args: argparse.Namespace) -> int:
    from flambeau.archive_summary import describe_archive  # noqa: PLC0415  # each imports its own

    print(describe_archive(args.archive))
    return 0


def _keygen(args: argparse.Namespace) -> int:
    from flambeau.archive_keys import make_key  # noqa: PLC0415  # as above

    key = make_key(args.key)
    print(f"key      {key}")
    print(f"private  {args.key}, which signs: keep it to yourself")
    print(f"public   {args.key.with_suffix('.pub')}, for trusted_keys")
    return 0


def _sign(args: argparse.Namespace) -> int:
    from flambeau.archive_keys import SigningKey  # noqa: PLC0415
    from flambeau.archive_signing import sign_archive  # noqa: PLC0415  # as above

    for key in sign_archive(args.archive, SigningKey.read(args.key)):
        print(f"signed by {key}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from flambeau.archive_signing import verify_archive  # noqa: PLC0415  # as above
    from flambeau.signing import read_trust  # noqa: PLC0415

    trust = read_trust(
        SignaturePolicy.REQUIRE, trusted_keys=args.trusted_keys, revoked_keys=args.revoked_keys
    )
    for key in verify_archive(args.archive, trust).keys:
        print(f"signed by {key}")
    return 0
