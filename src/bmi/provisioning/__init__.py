"""Operations: the durable workflows, one file per verb, and what keeps reality equal to the database."""
