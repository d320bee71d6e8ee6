"""The monitor: one process that watches every node over HTTP and serves the operators' page.

::

    server ─► app ─► report ─► collector ─► events ─► reading
       └────► poller

`reading` turns a node's /status into checked values, `events` puts differences into words, `collector` keeps the view
of the cluster (pure: time is passed in), `report` is what readers get, `poller` asks the nodes, `app` is the ASGI
application, `server` is the process.
"""
