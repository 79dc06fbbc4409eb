"""gRPC as TorchServe speaks it, and the Open Inference Protocol, on the front's event loop.

`service.py` opens the ports; each file named after a service answers its calls; `edge.py` is what
surrounds every call; `refusals.py` says with which status an error leaves. The messages are made
from `protos/*.proto` by `make protos`.
"""
