"""A whole cluster in one thread: the real driver and core of every node, in a world where one seed decides everything.

    python -m tests.simulation --seeds 1000                   many seeds, on all cores
    python -m tests.simulation --minutes 10                   as many as fit
    python -m tests.simulation --first 42 --seeds 1 --trace   one seed, and all that happens in it
    python -m tests.simulation --bugs [PATTERN]               the planted bugs, each until it is found

    world, plan         time, chance, trace; what a seed draws
    network, snapshots  links and connections; the transfer of states
    disk, storage, api  twins of the log, of the storage process and of the api process
    node, pace          one member: the real driver and core inside the loop of consensus/process.py
    clients, history    load, and what it was answered
    nemesis, changes    faults; changes of members and leaders
    observed, checkers  the promises of Raft, checked at every step
    linearizability     an independent verdict on the clients' history
    liveness            what the healed cluster must do
    cluster, runner     one seed; many
    bugs                what must be found

First everything is hostile; then all faults end, and the cluster must converge within bounded time.
"""
