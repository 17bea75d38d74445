"""The bill shared out: sql/cost.sql."""

import unittest
from decimal import Decimal

from made import SERVICE_LABELS, ask, call, charge, tables

DAY = "2026-11-02 10:00:00"
HOUR = 3600


def hour(start=DAY, **more):
    """What one hour of one L4 with 8 vCPU and 32 GiB costs."""
    return [
        charge("gpu", start, 0.672, amount=HOUR, **more),
        charge("cpu", start, 0.5184, amount=8 * HOUR, **more),
        charge("memory", start, 0.2304, amount=32 * HOUR * 2**30, **more),
    ]


def daily(calls, charges):
    """{(invoice month, day, payer): (cost, amount)} of cost_daily."""
    rows = ask("SELECT * FROM tollgate.cost_daily", tables(calls, charges))
    return {(r["invoice_month"], r["day"], r["key_name"] or r["username"] or r["line"]): (r["cost"], r["amount"]) for r in rows}


def costs(calls, charges):
    """{payer: cost} of one day."""
    return {payer: cost for (_, _, payer), (cost, _) in daily(calls, charges).items()}


class Shares(unittest.TestCase):
    def test_busy_time_goes_to_keys_by_weight_and_the_rest_is_idle(self):
        # 15 of 60 minutes; 1000 prompt and 500 answered tokens weigh 30000, 100 and 25 weigh 2000.
        calls = [
            call("a", "2026-11-02 18:00:00", 600, tokens=(1000, 0, 500), key_name="big"),
            call("b", "2026-11-02 18:05:00", 600, tokens=(100, 0, 25), key_name="small"),
        ]
        self.assertEqual(costs(calls, hour("2026-11-02 18:00:00")), {
            "big": Decimal("0.33300000"),
            "small": Decimal("0.0222"),
            "idle": Decimal("1.0656"),
        })

    def test_resources_stand_beside_one_another(self):
        calls = [call("a", DAY, HOUR / 2)]
        row = ask("SELECT * FROM tollgate.cost_daily WHERE line = 'usage'",
                  tables(calls, hour() + [charge("network", DAY, 0.02)]))[0]
        seen = [row[name] for name in ("gpu_cost", "cpu_cost", "memory_cost", "other_cost", "cost")]
        # Traffic is never idle.
        self.assertEqual(seen, [Decimal(x) for x in ("0.336", "0.2592", "0.1152", "0.02", "0.7304")])

    def test_cached_tokens_weigh_a_tenth(self):
        calls = [
            call("a", DAY, HOUR, tokens=(1000, 1000, 0), key_name="cached"),
            call("b", DAY, HOUR, tokens=(1000, 0, 0), key_name="fresh"),
        ]
        shares = costs(calls, [charge("gpu", DAY, 1.1, amount=HOUR)])
        self.assertEqual(shares, {"cached": Decimal("0.1"), "fresh": Decimal("1")})

    def test_calls_beyond_what_one_instance_takes_need_another(self):
        # 17 calls at once for half an hour are two instances, or one billed hour.
        calls = [call(f"c{i}", DAY, HOUR / 2) for i in range(17)]
        self.assertEqual(costs(calls, [charge("gpu", DAY, 1, amount=2 * HOUR)]), {"ci": Decimal("0.5"), "idle": Decimal("0.5")})
        self.assertEqual(costs(calls[:16], [charge("gpu", DAY, 1, amount=2 * HOUR)]),
                         {"ci": Decimal("0.25"), "idle": Decimal("0.75")})

    def test_more_busy_time_than_was_billed_leaves_nothing_idle(self):
        self.assertEqual(costs([call("a", DAY, 2 * HOUR)], hour()), {"ci": Decimal("1.4208")})

    def test_a_row_that_was_sent_twice_costs_nothing_more(self):
        one, two = call("a", DAY, 600, key_name="one"), call("b", DAY, 600, key_name="two")
        self.assertEqual(costs([one, two], hour()), costs([one, one, two, one], hour()))

    def test_a_day_without_calls_is_idle(self):
        self.assertEqual(costs([], hour()), {"idle": Decimal("1.4208")})
        # So is one whose calls made no token.
        self.assertEqual(costs([call("a", DAY, tokens=(0, 0, 0))], hour()), {"idle": Decimal("1.4208")})

    def test_calls_without_a_bill_cost_nothing_yet(self):
        self.assertEqual(daily([call("a", "2026-11-05 10:00:00")], hour()),
                         {("202611", "2026-11-02", "idle"): (Decimal("1.4208"), Decimal("1.42"))})

    def test_a_few_tokens_pay_for_their_time_alone(self):
        shares = costs([call("a", DAY, 1, tokens=(1, 0, 0))], hour())
        self.assertEqual(shares["ci"], Decimal("0.000394667"))
        self.assertEqual(sum(shares.values()), Decimal("1.4208"))

    def test_without_a_gpu_the_cpu_tells_the_time(self):
        shares = costs([call("a", DAY, HOUR / 4)], [charge("cpu", DAY, 0.0648, amount=HOUR)])
        self.assertEqual(shares, {"ci": Decimal("0.0162"), "idle": Decimal("0.0486")})

    def test_what_is_billed_by_request_is_never_idle(self):
        shares = costs([call("a", DAY, 1)], [charge("Services CPU (Request-based billing)", DAY, 0.5, amount=HOUR)])
        self.assertEqual(shares, {"ci": Decimal("0.5")})


    def test_a_correction_that_takes_back_more_than_was_billed_goes_to_the_callers(self):
        shares = costs([call("a", DAY, 60)], [charge("gpu", DAY, -0.5, amount=-HOUR)])
        self.assertEqual(shares, {"ci": Decimal("-0.5")})


class Bill(unittest.TestCase):
    def test_credits_are_taken_off(self):
        charges = hour() + [charge("gpu", DAY, 0.5, credits=[-0.3, -0.2208])]
        self.assertEqual(costs([], charges), {"idle": Decimal("1.4")})

    def test_a_day_may_be_negative(self):
        month = daily([call("a", DAY)], [charge("gpu", DAY, 0.1, amount=HOUR, credits=[-7.123456])])
        self.assertEqual(sum(amount for _, amount in month.values()), Decimal("-7.02"))

    def test_only_labelled_services_of_cloud_run_in_this_project_count(self):
        others = [
            charge("gpu", DAY, 9, labels={"application": "shop"}),
            charge("gpu", DAY, 9, labels={}),
            charge("gpu", DAY, 9, project={"id": "p-2"}),
            charge("gpu", DAY, 9, service={"description": "Compute Engine"}),
        ]
        self.assertEqual(costs([], hour() + others), {"idle": Decimal("1.4208")})

    def test_several_services_with_the_label_are_one_pool(self):
        gateway = charge("cpu", DAY, 0.0648, amount=HOUR, labels={**SERVICE_LABELS, "service": "gateway"})
        shares = costs([call("a", DAY, HOUR)], hour() + [gateway])
        self.assertEqual(shares, {"ci": Decimal("1.4856")})

    def test_an_upstream_with_its_own_label_is_paid_by_its_callers(self):
        calls = [
            call("a", DAY, HOUR, key_name="small", upstream="L4.example:8000"),
            call("b", DAY, HOUR, key_name="large", upstream="rtx"),
        ]
        charges = [
            charge("gpu", DAY, 0.6, amount=HOUR, labels={**SERVICE_LABELS, "upstream": "l4-example-8000"}),
            charge("gpu", DAY, 2.0, amount=HOUR, labels={**SERVICE_LABELS, "upstream": "rtx"}),
            charge("cpu", DAY, 0.1, amount=HOUR),
        ]
        self.assertEqual(costs(calls, charges), {"small": Decimal("0.65"), "large": Decimal("2.05")})

    def test_calls_of_another_deployment_in_the_same_table_pay_nothing(self):
        calls = [call("a", DAY, HOUR), call("b", DAY, HOUR, key_name="shop", service_labels={"application": "shop"}),
                 call("c", DAY, HOUR, key_name="bare", service_labels={})]
        self.assertEqual(costs(calls, hour()), {"ci": Decimal("0.7104"), "bare": Decimal("0.7104")})


class Days(unittest.TestCase):
    def test_days_and_months_end_at_midnight_of_the_bill(self):
        # 07:59 UTC on the first of December is still November there; 08:00 is not.
        calls = [call("a", "2026-12-01 07:30:00", HOUR / 4, key_name="late"),
                 call("b", "2026-12-01 08:00:00", HOUR, key_name="early")]
        charges = [charge("gpu", "2026-12-01 07:00:00", 1, amount=HOUR, month="202611"),
                   charge("gpu", "2026-12-01 08:00:00", 1, amount=HOUR, month="202612")]
        shares = {key: cost for key, (cost, _) in daily(calls, charges).items()}
        self.assertEqual(shares, {
            ("202611", "2026-11-30", "late"): Decimal("0.25"),
            ("202611", "2026-11-30", "idle"): Decimal("0.75"),
            ("202612", "2026-12-01", "early"): Decimal("1"),
        })

    def test_a_call_over_midnight_is_busy_on_both_days(self):
        calls = [call("a", "2026-11-03 07:30:00", HOUR), call("b", "2026-11-03 12:00:00", 1, key_name="next")]
        charges = [charge("gpu", "2026-11-03 07:00:00", 1, amount=HOUR), charge("gpu", "2026-11-03 08:00:00", 1, amount=HOUR)]
        shares = {key[1:]: cost for key, (cost, _) in daily(calls, charges).items()}
        self.assertEqual(shares["2026-11-02", "ci"], Decimal("0.5"))
        # Its tokens stand on the day it began; the half hour after midnight is the next day's busy time.
        self.assertEqual(shares["2026-11-03", "next"], (Decimal(1801) / 3600).quantize(Decimal("1e-9")))

    def test_the_hour_that_comes_twice_is_one_of_twenty_five(self):
        # Clocks go back on the first of November 2026: that day has 25 hours there.
        charges = [charge("gpu", "2026-11-01 07:00:00", 1, amount=HOUR), charge("gpu", "2026-11-02 07:00:00", 1, amount=HOUR)]
        self.assertEqual({day for _, day, _ in daily([], charges)}, {"2026-11-01"})

    def test_a_charge_that_came_late_is_on_the_later_invoice_with_its_own_days_callers(self):
        calls = [call("a", "2026-11-30 20:00:00", HOUR)]
        charges = [charge("gpu", "2026-11-30 20:00:00", 1, amount=HOUR),
                   charge("gpu", "2026-11-30 20:00:00", 1, amount=HOUR, month="202612")]
        shares = {key: cost for key, (cost, _) in daily(calls, charges).items()}
        self.assertEqual(shares, {
            ("202611", "2026-11-30", "ci"): Decimal("0.5"), ("202611", "2026-11-30", "idle"): Decimal("0.5"),
            ("202612", "2026-11-30", "ci"): Decimal("0.5"), ("202612", "2026-11-30", "idle"): Decimal("0.5"),
        })


class Finance(unittest.TestCase):
    def test_months_are_per_team_and_key(self):
        calls = [
            call("a", DAY, HOUR, key_name="ci", labels={"team": "search"}),
            call("b", "2026-11-03 10:00:00", HOUR, key_name="web", labels={"team": "search"}),
            call("c", "2026-11-03 10:00:00", HOUR, key_name="free"),
            call("d", "2026-11-03 10:00:00", HOUR, principal="user", key_name=None, username="ann"),
        ]
        data = tables(calls, hour() + hour("2026-11-03 10:00:00"))
        months = ask("SELECT * FROM tollgate.cost_monthly ORDER BY team, key_name, username", data)
        self.assertEqual(
            [(r["team"], r["key_name"], r["username"], r["cost"], r["amount"]) for r in months],
            [(None, None, "ann", Decimal("0.4736"), Decimal("0.47")),
             (None, "free", None, Decimal("0.4736"), Decimal("0.48")),
             ("search", "ci", None, Decimal("1.4208"), Decimal("1.42")),
             ("search", "web", None, Decimal("0.4736"), Decimal("0.47"))],
        )
        teams = ask("SELECT * FROM tollgate.cost_by_team ORDER BY team", data)
        self.assertEqual(
            [(r["invoice_month"], r["team"], r["service_keys"], r["users"], r["amount"]) for r in teams],
            [("202611", None, 1, 1, Decimal("0.95")), ("202611", "search", 2, 0, Decimal("1.89"))],
        )

    def test_a_team_label_of_the_service_pays_for_all_its_keys(self):
        service = {**SERVICE_LABELS, "team": "platform"}
        calls = [call("a", DAY, HOUR, labels={"team": "search"}, service_labels=service),
                 call("b", DAY, HOUR, key_name="web", service_labels=service)]
        teams = ask("SELECT team, amount FROM tollgate.cost_by_team", tables(calls, hour()))
        self.assertEqual(teams, [{"team": "platform", "amount": Decimal("1.42")}])

    def test_two_currencies_are_not_added_up(self):
        calls = [call("a", DAY, HOUR / 2)]
        charges = [charge("gpu", DAY, 0.01, amount=HOUR), charge("gpu", DAY, 0.03, amount=0, currency="EUR")]
        rows = ask("SELECT currency, SUM(amount) AS amount FROM tollgate.cost_monthly GROUP BY currency ORDER BY currency",
                   tables(calls, charges))
        self.assertEqual([(r["currency"], r["amount"]) for r in rows], [("EUR", Decimal("0.03")), ("USD", Decimal("0.01"))])

    def test_charges_that_lack_figures_are_shared_like_others(self):
        calls = [call("a", DAY, HOUR / 2)]
        correction = charge("gpu", DAY, 0.5, amount=None)
        self.assertEqual(costs(calls, [correction]), {"ci": Decimal("0.5")})
        credit = charge("cpu", DAY, None, amount=None, credits=[-0.25])
        self.assertEqual(sum(costs(calls, [correction, credit, charge("gpu", DAY, 1, amount=HOUR)]).values()), Decimal("1.25"))

    def test_sums_of_a_small_currency_are_exact_too(self):
        # Eighteen digits in billionths: more than a float has.
        calls = [call(f"c{i}", DAY, 3 * i, tokens=(100, 0, 7 * i), key_name=f"k{i}") for i in range(1, 6)]
        for cost in (10**8 + 1, 987_654_321, -594_058_177, 735_314_026):
            charges = [charge("gpu", DAY, cost, amount=HOUR, currency="IDR")]
            shares = costs(calls, charges)
            self.assertEqual(len(shares), 6)
            self.assertEqual(sum(shares.values()), cost)


if __name__ == "__main__":
    unittest.main()
