"""The bill shared out, on random months: each line as a second reckoning has it, each sum as the
invoice. A failure names the seed."""

import datetime
import os
import random
import unittest
from collections import defaultdict
from decimal import Decimal

import oracle
from made import SERVICE_LABELS, ask, call, charge, instant, tables

MONTHS = int(os.environ.get("RANDOM_MONTHS", "10"))
CENT = Decimal("0.01")


def some_charges(rng, day, month):
    lines = []
    for hour in rng.sample(range(24), rng.randint(0, 4)):
        start = (day + datetime.timedelta(hours=hour)).strftime("%Y-%m-%d %H:%M:%S")
        # Now and then a charge comes after the month was closed.
        billed_in = rng.choice([month] * 9 + ["209901"])
        pool = rng.choice([{}, {}, {"upstream": "rtx"}])
        labels = {**SERVICE_LABELS, **pool} if rng.random() < 0.9 else {"application": "shop"}
        seconds = rng.choice([0.25, 60, 3600, 3 * 3600]) * rng.random()
        scale = rng.choice([1e-6, 1, 1, 1, 1000])
        for resource in rng.sample(["gpu", "cpu", "memory", "network", "Services CPU (Request-based billing)"], rng.randint(1, 5)):
            amount = {"gpu": seconds, "cpu": 8 * seconds}.get(resource, seconds * 1e9)
            cost = scale * seconds * rng.random() / 1000
            credits = [-cost * rng.choice([0.1, 1, 1.5]) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
            lines.append(charge(resource, start, cost, amount=amount, credits=credits, labels=labels, month=billed_in))
    return lines


def some_calls(rng, day, name):
    calls = []
    for i in range(rng.choice([0, 1, 3, 40])):
        prompt = rng.choice([0, 1, 50, 4000, 120000])
        row = call(
            f"{name}-{i}",
            day + datetime.timedelta(microseconds=rng.randrange(86_400_000_000)),
            rng.choice([0, 0.000001, 1.5, 45, 3600]),
            tokens=(prompt, rng.randint(0, prompt), rng.choice([0, 1, 300])),
            upstream=rng.choice(["gpu-1", "rtx"]),
            labels=rng.choice([{}, {"team": "search"}, {"team": "ads"}]),
            **rng.choice([{"key_name": "ci"}, {"key_name": "web"}, {"principal": "user", "key_name": None, "username": "ann"}]),
        )
        calls += [row] * rng.choice([1, 1, 1, 2])
    return calls


def some_month(seed):
    rng = random.Random(seed)
    first = instant("2026-03-01 08:00:00") + datetime.timedelta(days=rng.randrange(300))
    calls, charges = [], []
    for n in range(30):
        day = first + datetime.timedelta(days=n)
        charges += some_charges(rng, day, oracle.bill_day(day).strftime("%Y%m"))
        calls += some_calls(rng, day, f"{seed}-{n}")
    return calls, charges


class RandomMonths(unittest.TestCase):
    def test_lines_are_right_and_sums_are_the_invoice(self):
        days = lines = 0
        for seed in range(MONTHS):
            with self.subTest(seed=seed):
                calls, charges = some_month(seed)
                data = tables(calls, charges)
                lines += self.check_lines(data, oracle.exact_lines(calls, charges))
                days += self.check_sums(data, [line for line in charges if oracle.on_the_bill(line)])
        print(f"\n{days} random days, {lines} lines of cost", end=" ")
        self.assertGreater(days, MONTHS * 10)

    def check_lines(self, data, expected):
        """Each share is right to a billionth, and no payer is missing."""
        found = {}
        for r in ask("SELECT * FROM tollgate.cost_lines", data):
            payer = (r["team"], r["principal"], r["key_name"], r["username"])
            found[r["invoice_month"], r["day"], r["pool"], r["resource"], r["line"], payer] = r["nanos"]
        self.assertEqual(set(found) - set(expected), set())
        for place, exact in expected.items():
            self.assertLess(abs(found.get(place, 0) - exact * 10**9), Decimal("1.05"), place)
        return len(found)

    def check_sums(self, data, charges):
        """Lines, days, payers and teams add up, per invoice month."""
        bill, days = defaultdict(Decimal), defaultdict(Decimal)
        for line in charges:
            day = oracle.bill_day(datetime.datetime.fromisoformat(line["usage_start_time"]))
            bill[line["invoice"]["month"]] += oracle.cost(line)
            days[line["invoice"]["month"], str(day)] += oracle.cost(line)
        invoice = {(month,): oracle.cents(cost) for month, cost in bill.items()}

        daily = ask("SELECT * FROM tollgate.cost_daily", data)
        self.assert_same(self.sums(daily, "amount", "invoice_month"), invoice)
        self.assert_same(self.sums(daily, "cost", "invoice_month", "day"), days)
        for place, amount in self.sums(daily, "amount", "invoice_month", "day").items():
            self.assertLess(abs(amount - days[place]), CENT, place)
        for row in daily:
            self.assertLess(abs(row["amount"] - row["cost"]), CENT, row)
            parts = sum(row[name] for name in ("gpu_cost", "cpu_cost", "memory_cost", "other_cost"))
            self.assertEqual(parts, row["cost"])

        for view in ("cost_monthly", "cost_by_team"):
            rows = ask(f"SELECT * FROM tollgate.{view}", data)
            self.assert_same(self.sums(rows, "amount", "invoice_month"), invoice)
            self.assert_same(self.sums(rows, "cost", "invoice_month"), {(m,): cost for m, cost in bill.items()})
            if view == "cost_monthly":
                self.assertTrue(all(abs(row["amount"] - row["cost"]) < CENT for row in rows))
        return len(days)

    def assert_same(self, found, expected):
        """What cost nothing may be missing."""
        self.assertEqual({k: v for k, v in found.items() if v}, {k: v for k, v in expected.items() if v})

    @staticmethod
    def sums(rows, column, *by):
        totals = defaultdict(Decimal)
        for row in rows:
            totals[tuple(row[name] for name in by)] += row[column]
        return dict(totals)


if __name__ == "__main__":
    unittest.main()
