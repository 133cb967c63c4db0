"""The audit trail: one line for each request that changed something or was refused."""
