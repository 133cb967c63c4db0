"""What initiators get from the kernel's own target. Runs inside the virtual machine of `make lio`."""
