"""`flambeau tune`: the settings of a model that answer most requests within a latency objective.

slo, candidate, space, frontier     what is asked, what is tried, what is better: no clock, no I/O
window, rate_search                 what one measurement says, and which rate to try next
load_generator                      a client process: requests at a rate, latencies back
clients, own_server, variants       the processes and archives that a trial needs
trial, search, choice               one configuration measured; which one next; which one wins
command, report                     flags in, progress and the model's YAML out
"""
