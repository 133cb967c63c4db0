"""Networks: VLANs with a gateway's leg on them, and the network cards attached."""
