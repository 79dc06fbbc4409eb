"""All servers under comparison, by name."""

from __future__ import annotations

from typing import Final

from benchmarks.peers import (
    bentoml_peer,
    flambeau_peer,
    litserve_peer,
    mlserver_peer,
    mosec_peer,
    ray_peer,
    torchserve_peer,
)

PEERS: Final = {
    peer.name: peer
    for peer in (
        flambeau_peer.PEER,
        torchserve_peer.PEER,
        mosec_peer.PEER,
        litserve_peer.PEER,
        mlserver_peer.PEER,
        bentoml_peer.PEER,
        ray_peer.PEER,
    )
}
