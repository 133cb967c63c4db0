"""Bare Metal Imaging: boot servers over the network from copy-on-write clones of golden images."""

from importlib.metadata import version

__version__ = version("bare-metal-imaging")
