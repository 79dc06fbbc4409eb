"""`flambeau optimize`: a model's fastest form, found ahead of time and as long as it takes.

    command.py   flags in, a table out
    process.py   the process in which it works, with one thread as a template does

What is tried, checked and chosen is `optimizing/`'s business.
"""
