"""Projects, tokens and roles, and the one policy function that every route goes through."""
