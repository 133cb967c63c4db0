"""A virtual data centre on one machine: QEMU nodes with real BMC protocols on an Open vSwitch."""
