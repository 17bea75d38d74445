"""Rows that only the log has come into the table: sql/reconcile.sql."""

import datetime
import unittest

import engine
from made import COLUMNS, LABELS, PLACES, call, text

NOW = datetime.datetime.now(datetime.timezone.utc)


def ago(**span):
    return NOW - datetime.timedelta(**span)


def sink_field(name, values):
    """The column that a log sink makes when it sees these values: all numbers are FLOAT64."""
    if name == "labels":
        return LABELS
    kinds = {bool: "BOOL", int: "FLOAT64", float: "FLOAT64", str: "STRING"}
    return {"name": name, "type": kinds[type(values[0])]}


def log_table(rows, others=()):
    """The sink's table. A column that never had a value does not exist. `rows` are (logged at, row)."""
    names = [c["name"] for c in COLUMNS]
    seen = {name: [r[name] for _, r in rows if r.get(name) not in (None, [])] for name in names}
    usage = [sink_field(name, values) for name, values in seen.items() if values]
    payload = [{"name": "message", "type": "STRING"}, {"name": "usage", "type": "RECORD", "fields": usage}]
    schema = [
        {"name": "timestamp", "type": "TIMESTAMP"},
        {"name": "severity", "type": "STRING"},
        {"name": "jsonPayload", "type": "RECORD", "fields": payload},
    ]
    entries = [
        {"timestamp": at.isoformat(), "severity": "INFO", "jsonPayload": {"message": "usage", "usage": row}} for at, row in rows
    ]
    entries += [{"timestamp": at.isoformat(), "jsonPayload": {"message": message}} for at, message in others]
    return {"schema": schema, "rows": entries}


def reconcile(stored, log, since=ago(days=7)):
    reply = engine.answer({
        "query": text("reconcile.sql"),
        "tables": {
            PLACES["usage_table"]: {"schema": COLUMNS, "rows": stored},
            PLACES["log_table"]: log,
        },
        "parameters": {"since": {"type": "TIMESTAMP", "value": since.isoformat()}},
    })
    return reply["dml"]["inserted"], reply["tables"]["tollgate.usage"]


def ids(rows):
    return sorted(row["request_id"] for row in rows)


class Reconcile(unittest.TestCase):
    def test_only_missing_rows_come_and_only_once(self):
        rows = [call(name, ago(hours=5)) for name in ("a", "b", "c")]
        log = log_table([(ago(hours=5), row) for row in rows], others=[(ago(hours=5), "listening")])
        inserted, after = reconcile(rows[:1], log)
        self.assertEqual((inserted, ids(after)), (2, ["a", "b", "c"]))
        again, after = reconcile(after, log)
        self.assertEqual((again, ids(after)), (0, ["a", "b", "c"]))

    def test_a_row_comes_as_it_was_written(self):
        row = call(
            "a", ago(hours=5), 12.345678, client_request_id="mine", username="ann", error_code="upstream_error",
            first_byte_ms=0, client="opencode", response_bytes=2**53 - 1, service="",
            labels={"team": "search", "cost-center": "engineering"}, woke=True,
        )
        # What was written directly has the same cells, types and order of labels.
        _, direct = reconcile([row], log_table([(ago(hours=5), call("z", ago(hours=5)))]))
        _, logged = reconcile([], log_table([(ago(hours=5), row)]))
        self.assertEqual(logged[0], next(r for r in direct if r["request_id"] == "a"))

    def test_columns_that_were_never_logged_are_null(self):
        row = call("a", ago(hours=5), service_labels={})
        log = log_table([(ago(hours=5), row)])
        names = [f["name"] for f in log["schema"][2]["fields"][1]["fields"]]
        for name in ("labels", "error_code", "first_byte_ms", "woke"):
            self.assertNotIn(name, names)
        _, after = reconcile([], log)
        self.assertEqual([after[0][name] for name in ("labels", "error_code", "first_byte_ms", "woke")], [[], None, None, None])

    def test_a_line_that_the_sink_has_twice_is_one_row(self):
        row = call("a", ago(hours=5))
        self.assertEqual(reconcile([], log_table([(ago(hours=5), row)] * 2))[0], 1)

    def test_the_last_two_hours_and_what_is_too_old_are_left_alone(self):
        rows = [(ago(hours=1), call("new", ago(hours=1))), (ago(hours=3), call("due", ago(hours=3))),
                (ago(days=8), call("old", ago(days=8)))]
        self.assertEqual(ids(reconcile([], log_table(rows))[1]), ["due"])

    def test_a_long_call_that_began_before_is_found_in_the_table(self):
        # Logged inside the span, begun before it.
        row = call("long", ago(days=7, minutes=30), 3600)
        self.assertEqual(reconcile([row], log_table([(ago(days=7) + datetime.timedelta(minutes=30), row)]))[0], 0)

    def test_lines_of_others_that_look_alike_are_skipped(self):
        good = call("a", ago(hours=5))
        odd = {**call("b", ago(hours=5)), "started_at": "yesterday"}
        nameless = {**call("c", ago(hours=5)), "request_id": None}
        log = log_table([(ago(hours=5), row) for row in (good, odd, nameless)], others=[(ago(hours=5), "usage")])
        log["rows"].append({"timestamp": ago(hours=5).isoformat(),
                            "jsonPayload": {"message": "something else", "usage": call("d", ago(hours=5))}})
        self.assertEqual(ids(reconcile([], log)[1]), ["a"])


if __name__ == "__main__":
    unittest.main()
