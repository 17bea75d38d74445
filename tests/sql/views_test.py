"""What was used: the views of sql/views.sql."""

import unittest

from made import COLUMNS, ask, call, tables


def daily(calls, columns=COLUMNS):
    return ask("SELECT * FROM tollgate.usage_daily ORDER BY day, team, key_name, username, model", tables(calls, columns=columns))


class Views(unittest.TestCase):
    def test_a_row_that_was_sent_twice_counts_once(self):
        row, other = call("a", "2026-11-02 10:00:00"), call("b", "2026-11-02 10:00:00")
        data = tables([row, other, row, row])
        ids = ask("SELECT request_id FROM tollgate.usage_unique ORDER BY request_id", data)
        self.assertEqual([r["request_id"] for r in ids], ["a", "b"])
        self.assertEqual([(r["calls"], r["total_tokens"]) for r in daily([row, other, row, row])], [(2, 250)])

    def test_rows_of_an_older_release_lack_a_column(self):
        columns = COLUMNS + [{"name": "queue_ms", "type": "INT64", "mode": "NULLABLE"}]
        data = tables([call("a", "2026-11-02 10:00:00"), call("b", "2026-11-02 10:00:00", queue_ms=7)], columns=columns)
        rows = ask("SELECT request_id, queue_ms FROM tollgate.usage_unique ORDER BY request_id", data)
        self.assertEqual([r["queue_ms"] for r in rows], [None, 7])

    def test_usage_is_per_team_key_user_model_and_day(self):
        rows = daily([
            call("a", "2026-11-02 23:59:59", labels={"team": "search"}),
            call("b", "2026-11-03 00:00:00", labels={"team": "search"}),
            call("c", "2026-11-03 01:00:00", labels={"team": "search"}, model="n", outcome="client_abort", counted_by="running"),
            call("d", "2026-11-03 01:00:00"),
            call("e", "2026-11-03 01:00:00", principal="user", key_name=None, username="ann"),
        ])
        seen = [
            (r["day"], r["team"], r["key_name"], r["username"], r["model"], r["calls"], r["incomplete_calls"], r["counted_tokens"])
            for r in rows
        ]
        self.assertEqual(seen, [
            ("2026-11-02", "search", "ci", None, "m", 1, 0, 125),
            ("2026-11-03", None, None, "ann", "m", 1, 0, 125),
            ("2026-11-03", None, "ci", None, "m", 1, 0, 125),
            ("2026-11-03", "search", "ci", None, "m", 1, 0, 125),
            ("2026-11-03", "search", "ci", None, "n", 1, 1, 0),
        ])

    def test_calls_that_woke_the_gpu_are_counted_and_rows_from_before_woke_nobody(self):
        rows = daily([
            call("a", "2026-11-02 10:00:00", woke=True),
            call("b", "2026-11-02 11:00:00", woke=None),
            call("c", "2026-11-02 12:00:00"),
            call("f", "2026-11-02 12:00:00", key_name="asleep"),
            call("d", "2026-11-02 10:00:00", key_name="cron", woke=True),
            call("e", "2026-11-02 22:00:00", key_name="cron", woke=True),
        ])
        self.assertEqual([(r["key_name"], r["calls"], r["wakes"]) for r in rows], [("asleep", 1, 0), ("ci", 3, 1), ("cron", 2, 2)])

    def test_a_label_of_the_service_beats_the_keys_own(self):
        service = {"application": "vllm-inference", "team": "platform"}
        rows = daily([call("a", "2026-11-02 10:00:00", labels={"team": "search"}, service_labels=service)])
        self.assertEqual([r["team"] for r in rows], ["platform"])


if __name__ == "__main__":
    unittest.main()
