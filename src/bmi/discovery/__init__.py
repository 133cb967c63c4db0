"""Machines that nobody has registered: they boot a small inspection system, report what they are, and are enrolled.

inspector.py   builds that system from Debian's packages; files/ is what is BMI's own in it
script.py      the iPXE script that starts it
node_http.py   what such a machine asks for over HTTP
report.py      the report, which anybody on the network can make up
  lldp.py      frames of switches in it
cabling.py     which switch port a card hangs on, by what it heard
"""
