"""The helper: one small process with root's rights, so that no other part of BMI needs them.

It answers on a Unix socket, to one user only, and knows a fixed list of verbs with typed arguments:

    verbs.py     the list: whose methods they are, and what they take and return
    wire.py      how a call and its answer look on the socket
    service.py   the process: checks who asks and what for, and does it
    id_maps.py   one of the verbs: users and groups of the service's own namespaces
    new_ids.py   asks for it, in the place of newuidmap(1)
    client.py    what takes the place of legs, switches, DHCP servers and rights in a process without them

It opens no network connection, reads no database, and starts nothing but dnsmasq, ip(8), ethtool(8) and ss(8).
"""
