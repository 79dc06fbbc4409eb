"""Faster forms of a model that compute the same, chosen by measuring while a worker warms up.

    candidates.py  the forms there are for a model, a device and a level
    stopwatch.py   which of several calls is the fastest
    choice.py      what was chosen, for people and for the next start
    remembered.py  choices by archive and machine, on disk
    machine.py     what a measurement holds for
    optimizer.py   builds, checks and times candidates, and chooses

`bare_model.py` beside this package gives programs the same choice without a server.
"""
