"""Every statement of sql/ is BigQuery's, and finds its names as BigQuery looks for them."""

import re
import unittest

import sqlglot
from made import BILLING_COLUMNS, COLUMNS, PLACES, ROOT, text, views
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.optimizer.qualify import qualify

FILES = sorted(path.name for path in (ROOT / "sql").glob("*.sql"))


def column_type(field):
    kind = field["type"]
    if kind == "RECORD":
        kind = "STRUCT<" + ", ".join(f"{f['name']} {column_type(f)}" for f in field["fields"]) + ">"
    return f"ARRAY<{kind}>" if field.get("mode") == "REPEATED" else kind


class Files(unittest.TestCase):
    def test_all_files_are_known(self):
        self.assertEqual(FILES, ["cost.sql", "reconcile.sql", "settings.sql", "views.sql"])

    def test_no_placeholder_is_left(self):
        for name in FILES:
            self.assertNotIn("${", text(name), name)

    def test_every_placeholder_is_explained_in_its_file(self):
        for name in FILES:
            raw = (ROOT / "sql" / name).read_text()
            for place in set(re.findall(r"\$\{\w+\}", raw)):
                self.assertRegex(raw, rf"(?m)^--   {re.escape(place)} ", f"{name}: {place}")

    def test_every_statement_is_understood(self):
        for name in FILES:
            for statement in sqlglot.parse(text(name), read="bigquery"):
                if statement is not None:
                    self.assertIsInstance(statement, (exp.Create, exp.Insert), name)

    def test_no_name_is_a_reserved_word(self):
        for name in FILES:
            for statement in filter(None, sqlglot.parse(text(name), read="bigquery")):
                for identifier in statement.find_all(exp.Identifier):
                    if not identifier.quoted:
                        self.assertNotIn(identifier.name.lower(), BigQuery.Generator.RESERVED_KEYWORDS, name)

    def test_every_column_is_found_without_help_of_an_alias(self):
        # The database of the tests would find an alias of the same SELECT; BigQuery would not.
        known = {
            "p-1": {
                "tollgate": {"usage": {c["name"]: column_type(c) for c in COLUMNS}},
                "billing": {PLACES["billing_table"].split(".")[2]: {c["name"]: column_type(c) for c in BILLING_COLUMNS}},
            }
        }
        for name, sql in views().items():
            query = qualify(
                sqlglot.parse_one(sql, read="bigquery"),
                schema=known,
                dialect="bigquery",
                expand_alias_refs=False,
                validate_qualify_columns=True,
            )
            columns = {column.alias_or_name: "STRING" for column in query.selects}
            known["p-1"]["tollgate"][name.rsplit(".", 1)[1]] = columns

    def test_reconcile_fills_every_column_of_the_schema(self):
        insert = next(filter(None, sqlglot.parse(text("reconcile.sql"), read="bigquery")))
        names = [column.name for column in insert.this.expressions]
        self.assertEqual(names, [column["name"] for column in COLUMNS])
        selected = [s.sql() for s in insert.expression.selects]
        for name, sql in zip(names, selected):
            if name not in ("request_id", "started_at"):
                self.assertIn(f"$.{name}'", sql)


if __name__ == "__main__":
    unittest.main()
