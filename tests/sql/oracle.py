"""The shares of cost_lines, worked out a second time: in plain Python, with fractions, and by counting
calls in flight at each change. Shares no code with sql/."""

import datetime
import re
import zoneinfo
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

BILL_ZONE = zoneinfo.ZoneInfo("America/Los_Angeles")
CALLS_PER_INSTANCE = 16


def labels(row):
    return {label["key"]: label["value"] for label in row["labels"]}


def bill_day(moment):
    return moment.astimezone(BILL_ZONE).date()


def midnight(day):
    return datetime.datetime.combine(day, datetime.time(), BILL_ZONE).astimezone(datetime.timezone.utc)


def numeric(amount):
    return Decimal(amount).quantize(Decimal("1e-9"), ROUND_HALF_UP)


def cents(amount):
    """Rounded as an invoice is: halves away from zero."""
    return Decimal(amount).quantize(Decimal("0.01"), ROUND_HALF_UP)


def on_the_bill(line):
    return (
        line["service"]["description"] == "Cloud Run"
        and line["project"]["id"] == "p-1"
        and labels(line).get("application") == "vllm-inference"
    )


def cost(line):
    return numeric(line["cost"]) + sum((numeric(credit["amount"]) for credit in line["credits"]), Decimal(0))


def resource(line):
    words = re.findall(r"[a-z]+", line["sku"]["description"].lower())
    return next((name for name in ("gpu", "cpu", "memory") if name in words), "other")


def unique(calls):
    return list({call["request_id"]: call for call in calls}.values())


def parsed(call):
    start, end = (datetime.datetime.fromisoformat(call[name]) for name in ("started_at", "finished_at"))
    weight = 10 * (call["prompt_tokens"] - call["cached_tokens"]) + call["cached_tokens"] + 40 * call["completion_tokens"]
    payer = (labels(call).get("team"), call["principal"], call["key_name"], call.get("username"))
    return start, end, weight, payer


def busy_seconds(calls, day):
    """Seconds of instances that had something to do on a day."""
    first, last = midnight(day), midnight(day + datetime.timedelta(days=1))
    spans = [(max(start, first), min(end, last)) for start, end, _, _ in calls if start < last and end > first]
    moments = sorted({moment for span in spans for moment in span})
    seconds = Fraction(0)
    for here, there in zip(moments, moments[1:]):
        in_flight = sum(1 for start, end in spans if start <= here and end >= there)
        needed = -(-in_flight // CALLS_PER_INSTANCE)
        seconds += needed * Fraction((there - here) // datetime.timedelta(microseconds=1), 1_000_000)
    return seconds


def exact_lines(calls, charges):
    """{(invoice month, day, pool, resource, line, payer): exact cost}."""
    cells, seconds = defaultdict(Fraction), defaultdict(lambda: defaultdict(Fraction))
    for line in filter(on_the_bill, charges):
        day = bill_day(datetime.datetime.fromisoformat(line["usage_start_time"]))
        pool = labels(line).get("upstream", "")
        cells[line["invoice"]["month"], day, pool, resource(line)] += Fraction(cost(line))
        if line["usage"]["unit"] == "seconds" and "Request-based" not in line["sku"]["description"]:
            seconds[day, pool][resource(line)] += Fraction(numeric(line["usage"]["amount"]))
    result = defaultdict(Fraction)
    for (month, day, pool, kind), amount in cells.items():
        mine = [parsed(c) for c in unique(calls) if pool in ("", c["upstream"])]
        weights = defaultdict(int)
        for start, _, weight, payer in mine:
            if bill_day(start) == day and weight:
                weights[payer] += weight
        # Whole microseconds, as times have them.
        billed = Fraction(round(max(seconds[day, pool]["gpu"] or seconds[day, pool]["cpu"], 0) * 1_000_000), 1_000_000)
        used = Fraction(0)
        if weights:
            used = Fraction(1) if kind == "other" or not billed else min(busy_seconds(mine, day) / billed, Fraction(1))
        for payer, weight in weights.items():
            result[month, str(day), pool, kind, "usage", payer] += amount * used * weight / sum(weights.values())
        result[month, str(day), pool, kind, "idle", (None,) * 4] += amount * (1 - used)
    return result
