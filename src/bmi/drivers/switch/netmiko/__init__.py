"""Switch driver `netmiko`: real switches, over SSH, by their command line.

    driver.py    the verbs: calls from many threads go into one queue for each switch
    queue.py     the queue: what waits meanwhile is taken together
    batch.py     a batch: read, compare, change, read back, save
    session.py   one SSH session: logged in by netmiko, every answer bounded in time and size
    ports.py     which ports may be touched
    dialects/    what to say to each vendor's switches, and how to read what they answer

docs/switches.md tells how to prepare a switch, and what is sent.
"""

from bmi.drivers.switch.netmiko.driver import NetmikoSwitch

__all__ = ["NetmikoSwitch"]
