"""What a node meets while it boots: DHCP and TFTP, boot scripts, seeds, and the report that it is up.

The files below know nothing of the database and answer one question each:

    dnsmasq.py     the DHCP and TFTP server of a network: started, told its hosts, stopped
      dhcp_conf.py   the texts that it reads
      dhcp_log.py    what it saw: its log as events
      leases.py      the addresses that nodes have taken
      files.py       where all this is kept
    listen.py      the HTTP server that nodes, and nobody else, can reach
    texts.py       the texts of the files above and below, from templates that a site may replace
      variables.py   what each template is given
    script.py      the iPXE script that takes a node to its disk
    seed.py        the small volume that tells a node its name and keys
      iso_dates.py   makes it the same for the same content
    checks.py      which values may be written into any of these

`models.py` and `service.py` put them to work for the boot records of the database.
"""
