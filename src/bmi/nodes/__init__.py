"""The inventory: nodes, their network cards and management controllers, and their power."""
