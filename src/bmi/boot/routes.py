"""The way from a leg's namespace to DNS servers that are not on the network itself.

A leg has no default route: nothing but these few servers is reached from it, through the network's router.
"""

from bmi.boot.dhcp_conf import Addressing
from bmi.drivers.leg import Leg
from bmi.run import run

_PROTOCOL = "187"  # a number of no routing daemon (/etc/iproute2/rt_protos), by which these are known


def lead_to(leg: Leg, addressing: Addressing) -> None:
    """Make the routes of a leg lead to the DNS servers that are asked from there, and to nothing else.

    Raises:
        CommandFailed: They cannot be set.
    """
    router, network = addressing.router, leg.address.network
    outside = [server for server in addressing.dns_servers if server not in network]
    wanted = {str(server) for server in outside} if addressing.dns and router else set()
    listed = run(["ip", "-4", "route", "show", "proto", _PROTOCOL], namespace=leg.namespace)
    there = {words[0]: words for line in listed.splitlines() if (words := line.split())}
    for server in there.keys() - wanted:
        run(["ip", "route", "delete", server, "proto", _PROTOCOL], namespace=leg.namespace)
    for server in wanted:
        if str(router) not in there.get(server, ()):
            way = ["via", str(router), "dev", leg.interface, "proto", _PROTOCOL]
            run(["ip", "route", "replace", server, *way], namespace=leg.namespace)
