"""Faster forms of a model that compute the same, chosen by measuring while a worker warms up.

    candidates.py  the forms there are for a model, a device and a level
    stopwatch.py   which of several calls is the fastest
    choice.py      what was chosen, for people and for the next start
    remembered.py  choices by archive and machine, on disk
    machine.py     what a measurement holds for
    optimizer.py   builds, checks and times candidates, and chooses

    archive_candidates.py   programs that an archive has beside the served one
    compiled.py             a model as a library of machine code
    compiled_candidates.py  which of these there are
    library_store.py        libraries by archive and machine, on disk
    graphs.py               a model's launches on a GPU, recorded and replayed
    fit.py                  whether a batch is one that a form was made for

`bare_model.py` beside this package gives programs the same choice without a server, and `ahead/`
makes it without a limit of time.
"""
