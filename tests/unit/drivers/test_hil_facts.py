"""docs/hil.md names a test for each fact that is known of HIL, and each test stands for one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SUITE = ROOT / "tests" / "integration" / "hil" / "test_wire_facts.py"


def rows() -> list[tuple[str, bool]]:
    """The test of each fact in the document, and whether it is said to run against a real HIL."""
    found = re.findall(r"^\| (.*) \| `(test_\w+)` \|$", (ROOT / "docs" / "hil.md").read_text(), re.MULTILINE)
    return [(test, fact.endswith(" *")) for fact, test in found]


def suite() -> dict[str, bool]:
    """The tests of the suite, and whether each runs against a real HIL."""
    functions = [node for node in ast.parse(SUITE.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: "anywhere" in {argument.arg for argument in function.args.args}
        for function in functions
        if function.name.startswith("test_")
    }


def test_every_fact_has_its_test_and_every_test_its_fact() -> None:
    assert len(rows()) == len(dict(rows()))
    assert dict(rows()) == suite()
