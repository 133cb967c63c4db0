"""What a node meets while it boots: DHCP and TFTP, boot scripts, seeds, and the report that it is up.

The files below know nothing of the database and answer one question each:

    dnsmasq.py     the DHCP and TFTP server of a network: started, told its hosts, stopped
    dhcp_conf.py   the texts that server reads
    dhcp_log.py    what that server saw: its log as events
    listen.py      the HTTP server that nodes, and nobody else, can reach
    script.py      the iPXE script that takes a node to its disk
    seed.py        the small volume that tells a node its name and keys

`models.py` and `service.py` put them to work for the boot records of the database.
"""
