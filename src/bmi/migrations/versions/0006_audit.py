"""The audit trail, which the database itself keeps from being changed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_WHY = "the audit trail is append-only"
# A removal may say that it is about lines of 30 days and more; the hour is for clocks that differ.
_TOO_SOON = {
    # As text, which is how SQLite compares it with a line's time, too.
    "sqlite": "NEW.before > strftime('%Y-%m-%d %H:%M:%S', 'now', '-30 days', '+1 hour')",
    "postgresql": "NEW.before > clock_timestamp() - interval '30 days' + interval '1 hour'",
}
_TOO_YOUNG = "NOT EXISTS (SELECT 1 FROM audit_retention WHERE OLD.at < audit_retention.before)"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("caller", sa.String(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("thing", sa.String(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_project_id", "audit", ["project_id", "id"])
    op.create_table(
        "audit_retention",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_retention"),
        sqlite_with_rowid=False,
    )
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)


def _sqlite(name: str, event: str, table: str, when: str = "") -> str:
    condition = f" WHEN {when}" if when else ""
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {table}{condition} BEGIN SELECT RAISE(ABORT, '{_WHY}'); END"
    )


# INSERT OR REPLACE removes a row without asking the trigger for removals. It finds the row by its id; not by
# SQLite's own number of it, which these tables do not have.
_SQLITE = (
    _sqlite("audit_unchanged", "UPDATE", "audit"),
    _sqlite("audit_kept", "DELETE", "audit", _TOO_YOUNG),
    _sqlite("audit_once", "INSERT", "audit", "EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)"),
    _sqlite("audit_retention_unchanged", "UPDATE", "audit_retention"),
    _sqlite("audit_retention_kept", "DELETE", "audit_retention"),
    _sqlite(
        "audit_retention_once",
        "INSERT",
        "audit_retention",
        "EXISTS (SELECT 1 FROM audit_retention WHERE id = NEW.id)",
    ),
    _sqlite("audit_retention_late", "INSERT", "audit_retention", _TOO_SOON["sqlite"]),
)
_POSTGRESQL = (
    "CREATE FUNCTION bmi_append_only() RETURNS trigger LANGUAGE plpgsql AS $$"
    f" BEGIN RAISE EXCEPTION '{_WHY}' USING ERRCODE = 'restrict_violation'; END $$",
    "CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION bmi_append_only()",
    # A trigger's own condition may not look into another table.
    "CREATE FUNCTION bmi_audit_kept() RETURNS trigger LANGUAGE plpgsql AS $$"
    f" BEGIN IF {_TOO_YOUNG} THEN RAISE EXCEPTION '{_WHY}' USING ERRCODE = 'restrict_violation'; END IF;"
    " RETURN OLD; END $$",
    "CREATE TRIGGER audit_kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION bmi_audit_kept()",
    "CREATE TRIGGER audit_not_emptied BEFORE TRUNCATE ON audit EXECUTE FUNCTION bmi_append_only()",
    "CREATE TRIGGER audit_retention_late BEFORE INSERT ON audit_retention"
    f" FOR EACH ROW WHEN ({_TOO_SOON['postgresql']}) EXECUTE FUNCTION bmi_append_only()",
    "CREATE TRIGGER audit_retention_kept BEFORE UPDATE OR DELETE ON audit_retention"
    " FOR EACH ROW EXECUTE FUNCTION bmi_append_only()",
    "CREATE TRIGGER audit_retention_not_emptied BEFORE TRUNCATE ON audit_retention"
    " EXECUTE FUNCTION bmi_append_only()",
)
