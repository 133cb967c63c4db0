"""Gateways: the hosts that run targets and boot services, who of them is alive, and who acts for whom."""
