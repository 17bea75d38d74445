"""The stand-in answers as BigQuery's REST API does."""

import json
import subprocess
import sys
import unittest
from pathlib import Path

ENGINE = Path(__file__).with_name("engine.py")
TABLE = {
    "schema": [
        {"name": "id", "type": "STRING", "mode": "REQUIRED"},
        {"name": "at", "type": "TIMESTAMP", "mode": "NULLABLE"},
        {"name": "n", "type": "INT64", "mode": "NULLABLE"},
        {
            "name": "labels",
            "type": "RECORD",
            "mode": "REPEATED",
            "fields": [{"name": "key", "type": "STRING"}, {"name": "value", "type": "STRING"}],
        },
    ],
    "rows": [
        {"id": "a", "at": "2026-11-01T00:00:00.000001Z", "n": 1, "labels": [{"key": "team", "value": "ml"}]},
        {"id": "b", "at": "2026-11-01 00:00:01 UTC", "n": "2"},
        {"id": "c", "at": 1793491202.5},
    ],
}


def answers(*requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([sys.executable, ENGINE], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def query(sql, **more):
    return answers({"query": sql, "tables": {"p-1.d.t": TABLE}, **more})[0]


class Engine(unittest.TestCase):
    def test_cells_are_spelled_as_in_rest(self):
        reply = query(
            "SELECT id, at, n, n = 1 AS one, labels, CAST('1.50' AS NUMERIC) AS money, n / 4 AS quarter,"
            " DATE(at, 'America/Los_Angeles') AS day FROM `p-1.d.t` ORDER BY id LIMIT 1"
        )
        label = {"f": [{"v": "team"}, {"v": "ml"}]}
        self.assertEqual(
            reply["rows"], [["a", "1793491200000001", "1", "true", [{"v": label}], "1.5", "0.25", "2026-10-31"]]
        )
        kinds = [(field["type"], field["mode"]) for field in reply["schema"]["fields"]]
        names = "STRING TIMESTAMP INTEGER BOOLEAN RECORD NUMERIC FLOAT DATE".split()
        self.assertEqual(kinds, [(name, "REPEATED" if name == "RECORD" else "NULLABLE") for name in names])

    def test_every_way_to_write_a_time_is_read(self):
        reply = query("SELECT UNIX_MICROS(at) AS m FROM d.t ORDER BY m")
        self.assertEqual(reply["rows"], [["1793491200000001"], ["1793491201000000"], ["1793491202500000"]])

    def test_parameters_are_typed(self):
        since = {"type": "TIMESTAMP", "value": "2026-11-01T00:00:01Z"}
        reply = query("SELECT COUNT(*) AS n FROM d.t WHERE at >= @since", parameters={"since": since})
        self.assertEqual(reply["rows"], [["2"]])
        self.assertIn("'since' not found", query("SELECT @since")["error"])

    def test_a_parameter_may_be_an_array(self):
        ids = {"type": "ARRAY", "array_type": "STRING", "values": ["c", "a", "x'y"]}
        reply = query("SELECT id FROM d.t WHERE id IN UNNEST(@ids) ORDER BY id", parameters={"ids": ids})
        self.assertEqual(reply["rows"], [["a"], ["c"]])
        none = {"type": "ARRAY", "array_type": "INT64", "values": []}
        reply = query("SELECT COUNT(*) AS n FROM d.t WHERE n IN UNNEST(@ns)", parameters={"ns": none})
        self.assertEqual(reply["rows"], [["0"]])

    def test_views_may_use_one_another(self):
        views = {"d.w": "SELECT id FROM d.v WHERE n = 2", "p-1.d.v": "SELECT id, n FROM `p-1.d.t`"}
        self.assertEqual(query("SELECT * FROM d.w", views=views)["rows"], [["b"]])

    def test_a_script_makes_views_and_uses_them(self):
        reply = query("CREATE OR REPLACE VIEW `p-1.d.v` AS SELECT id FROM d.t; SELECT COUNT(*) AS n FROM d.v")
        self.assertEqual(reply["rows"], [["3"]])
        self.assertEqual(list(reply["views"]), ["d.v"])

    def test_dml_answers_the_rows_afterwards(self):
        reply = query("INSERT INTO d.t (id, n) SELECT CONCAT(id, id), n FROM d.t WHERE n IS NOT NULL")
        self.assertEqual(reply["dml"], {"inserted": 2, "updated": 0, "deleted": 0})
        self.assertEqual([row["id"] for row in reply["tables"]["d.t"]], ["a", "b", "c", "aa", "bb"])
        again = answers({"query": "SELECT at, labels FROM d.t WHERE id = 'a'",
                         "tables": {"d.t": {**TABLE, "rows": reply["tables"]["d.t"]}}})[0]
        self.assertEqual(again["rows"], query("SELECT at, labels FROM d.t WHERE id = 'a'")["rows"])

    def test_merge_counts_what_it_did(self):
        reply = query(
            "MERGE d.t USING (SELECT 'a' AS id UNION ALL SELECT 'z') AS s ON t.id = s.id"
            " WHEN MATCHED THEN UPDATE SET n = 9 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)"
        )
        self.assertEqual(reply["dml"], {"inserted": 1, "updated": 1, "deleted": 0})

    def test_a_refused_query_does_not_end_the_process(self):
        tables = {"d.t": TABLE}
        replies = answers(
            {"query": "SELEC", "tables": tables},
            {"query": "SELECT nope FROM d.t", "tables": tables},
            {"query": "SELECT 1 FROM d.missing", "tables": tables},
            {"query": "INSERT INTO d.t (n) SELECT 1", "tables": tables},
            {"query": "SELECT SUM(x) FROM UNNEST([9223372036854775807, 1]) AS x"},
            {"query": "SELECT 1 AS one"},
        )
        self.assertEqual(["error" in reply for reply in replies], [True] * 5 + [False])


if __name__ == "__main__":
    unittest.main()
