"""A cluster on one machine: the launcher that runs it, and what other shells need to look at it and to command it.

::

    runner ─► preflight, control, record, logfiles ─► supervisor
    view, tables                                      for the commands that look
"""
