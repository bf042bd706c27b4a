"""A fleet: many machines, each with a service of its own, run by Ray; and the gateway that leads clients to them.

    gateway (gateway.py, fleet.py, keeper.py) <- Ray -> actor (actors.py, host.py) <- pipe -> node (member.py)
       |  307, or passed on (relay.py)                                                          ^
       +--- client --- HTTP, and media straight to and fro -------------------------------------+

A node is an ordinary service, but for its name, with which the ids that it gives out begin. The gateway keeps nothing
that it could not ask the nodes for again: it may end and be started anew, and the nodes' sessions go on meanwhile.
Only actors.py imports Ray.
"""
