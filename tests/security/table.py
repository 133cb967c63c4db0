"""Which role each route needs, as a page in docs/."""

from collections.abc import Mapping

from bmi.access.policy import LEAST_ROLE, OFFERED, READABLE_BY_ALL, USABLE_BY_ALL, Action
from bmi.access.rules import Rule
from bmi.api.access import Role

_HEAD = """# Who may do what

Made by `make security`, from the rules that the routes declare and the table of `src/bmi/access/policy.py`. The
service does not start while a route declares no rule, and while it answers it refuses whatever a route has not
declared. The same command asks every route as every role, with no token and with a wrong one, for what belongs to
the caller's own project and to another one.

- What belongs to another project does not exist for a caller: 404. What he may see but not do is 403.
- Roles are steps, each with all that the one before may: {roles}.
- What belongs to no project: whoever has the role in any project may {nobodys}.
- What another project offers: {offered}.
- "Also" names what a request needs besides if its body calls for it, or if the thing is offered and not owned.
"""


def access_table(table: Mapping[tuple[str, str], Rule]) -> str:
    """Return the page.

    Args:
        table: The rule of every route, by method and path.
    """
    ladder = (Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN)
    head = _HEAD.format(
        roles=", ".join(ladder),
        nobodys=_list(READABLE_BY_ALL | USABLE_BY_ALL),
        offered=_list(OFFERED),
    )
    lines = [
        head,
        "| route | asks for | least role | also |",
        "|---|---|---|---|",
        *(_line(method, path, table[method, path]) for path, method in sorted((p, m) for m, p in table)),
        "",
    ]
    return "\n".join(lines)


def _line(method: str, path: str, rule: Rule) -> str:
    also = set(rule.sometimes) - set(rule.always)
    told = "whatever the operation asked for" if len(also) + len(rule.always) == len(Action) else _list(also)
    return f"| {method} `{path}` | {_list(rule.always)} | {least(rule)} | {told} |"


def least(rule: Rule) -> str:
    """Return the least role that a route answers, in words."""
    if rule.public:
        return "everybody, without a token"
    if not rule.always:
        return "any token"
    ladder = (Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN)
    return max((LEAST_ROLE[action] for action in rule.always), key=ladder.index)


def _list(actions: object) -> str:
    return ", ".join(sorted(str(action) for action in actions)) if isinstance(actions, set | tuple) else ""
