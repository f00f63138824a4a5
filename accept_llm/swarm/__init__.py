"""A Petals swarm: the bridge to Petals, model folders as it reads them, servers, who serves what,
the chain of servers that a batch goes through, and whether the swarm computes what it should.

Petals is imported only by what needs it, through bridge.py.
"""
