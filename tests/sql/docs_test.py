"""The tables in docs/cost.md are what the views print. Run alone, this prints them:

    target/sql-venv/bin/python tests/sql/docs_test.py --print
"""

import sys
import unittest

from made import ROOT, SERVICE_LABELS, ask, call, charge, tables

HOUR = 3600


def gpu_hours(day, hours):
    """A model server with one L4, 8 vCPU and 32 GiB, at the prices that docs/cost.md names."""
    start = f"{day} 17:00:00"
    seconds = hours * HOUR
    return [
        charge("gpu", start, 0.0001867 * seconds, amount=seconds),
        charge("cpu", start, 0.000018 * 8 * seconds, amount=8 * seconds),
        charge("memory", start, 0.000002 * 32 * seconds, amount=32 * seconds * 2**30, credits=[-0.05]),
    ]


def example():
    """Two days: a busy one, and one on which a single call woke the GPU."""
    calls = [
        call("a", "2026-11-03 17:10:00", 2 * HOUR, tokens=(2_000_000, 1_500_000, 180_000), key_name="opencode", labels={"team": "search"}),
        call("b", "2026-11-03 18:00:00", 2 * HOUR, tokens=(900_000, 0, 40_000), key_name="ci", labels={"team": "search"}),
        call("c", "2026-11-03 21:00:00", HOUR, tokens=(400_000, 0, 250_000), key_name="notebooks", labels={"team": "ads"}),
        call("d", "2026-11-04 17:20:00", 20, tokens=(10, 0, 5), principal="user", key_name=None, username="ann"),
    ]
    gateway = [charge("cpu", f"{day} 17:00:00", 0.000018 * 4 * HOUR, amount=4 * HOUR, labels=SERVICE_LABELS)
               for day in ("2026-11-03", "2026-11-04")]
    return tables(calls, gpu_hours("2026-11-03", 6) + gpu_hours("2026-11-04", 0.25) + gateway)


QUERIES = [
    "SELECT day, line, team, COALESCE(key_name, username) AS payer, gpu_cost, cpu_cost, memory_cost, cost, amount\n"
    "FROM tollgate.cost_daily ORDER BY day, line DESC, team, payer",
    "SELECT invoice_month, line, team, COALESCE(key_name, username) AS payer, cost, amount\n"
    "FROM tollgate.cost_monthly ORDER BY invoice_month, line DESC, team, payer",
    "SELECT invoice_month, line, team, service_keys, users, amount\n"
    "FROM tollgate.cost_by_team ORDER BY invoice_month, line DESC, team",
]


def blocks():
    """Each query with its answer, as they stand in the page."""
    data = example()
    for query in QUERIES:
        rows = ask(query, data)
        names = list(rows[0])
        lines = [names, ["---"] * len(names)]
        lines += [["" if row[name] is None else str(row[name]) for name in names] for row in rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        yield f"```sql\n{query}\n```\n\n{table}\n"


class Docs(unittest.TestCase):
    def test_the_page_shows_what_the_views_print(self):
        page = (ROOT / "docs/cost.md").read_text()
        for block in blocks():
            self.assertIn(block, page)


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print("\n".join(blocks()))
    else:
        unittest.main()
