"""Serial consoles of nodes: who holds the one session that a controller gives, what was said, and what is typed."""
