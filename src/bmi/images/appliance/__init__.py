"""Looks into disks and changes them inside a small virtual machine, the appliance of libguestfs.

The host never mounts a tenant's file system and never runs a program of an image. Nothing is imported here: the
program in the sandbox (`child`) is part of this package, and runs on the system's Python without BMI's libraries.
"""
