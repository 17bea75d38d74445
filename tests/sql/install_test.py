"""scripts/install-views.sh with Google's own `bq`, against a server that runs the statements."""

import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

import engine
from made import ROOT, call, charge, instant, tables
from reconcile_test import log_table

BQ = shutil.which("bq")


def description():
    """The API's description that comes with bq, if it is there."""
    if BQ is None:
        return None
    path = Path(BQ).resolve().parent / "../platform/bq/discovery_next/bigquery.json"
    return path.read_text() if path.is_file() else None


class BigQuery(http.server.ThreadingHTTPServer):
    """Jobs that run SQL, and what became of them."""

    def __init__(self, data):
        super().__init__(("127.0.0.1", 0), Routes)
        self.data, self.views, self.jobs, self.statements = data, {}, {}, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def run(self, configuration, job_id):
        query = configuration["query"]
        self.statements.append(query)
        parameters = {
            p["name"]: {"type": p["parameterType"]["type"], "value": p["parameterValue"]["value"]}
            for p in configuration.get("queryParameters", [])
        }
        reply = engine.answer({"query": query, "tables": self.data, "views": self.views, "parameters": parameters})
        self.views.update(reply.get("views", {}))
        for name, rows in reply.get("tables", {}).items():
            self.data[f"p-1.{name}"]["rows"] = rows
        kind = "SCRIPT" if "views" in reply else "INSERT" if "dml" in reply else "SELECT"
        outcome = {"statementType": kind}
        if "dml" in reply:
            outcome["numDmlAffectedRows"] = str(reply["dml"]["inserted"])
        self.jobs[job_id] = reply
        return {
            "kind": "bigquery#job",
            "id": f"p-1:US.{job_id}",
            "jobReference": {"projectId": "p-1", "jobId": job_id, "location": "US"},
            "configuration": {"jobType": "QUERY", "query": {"query": query, "useLegacySql": False}},
            "status": {"state": "DONE"},
            "statistics": {"creationTime": "1", "startTime": "1", "endTime": "2", "query": outcome},
        }

    def results(self, job_id):
        reply = self.jobs[job_id]
        rows = [{"f": [{"v": cell} for cell in row]} for row in reply.get("rows", [])]
        return {
            "kind": "bigquery#getQueryResultsResponse",
            "jobReference": {"projectId": "p-1", "jobId": job_id, "location": "US"},
            "jobComplete": True,
            "schema": reply.get("schema", {"fields": []}),
            "rows": rows,
            "totalRows": str(len(rows)),
            **({"numDmlAffectedRows": str(reply["dml"]["inserted"])} if "dml" in reply else {}),
        }


class Routes(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        configuration = body.get("configuration", {}).get("query")
        if configuration is None or configuration.get("useLegacySql") is not False:
            return self.reply(400, {"error": {"code": 400, "message": "not a query in standard SQL"}})
        job_id = body.get("jobReference", {}).get("jobId", f"job{len(self.server.jobs)}")
        try:
            job = self.server.run(configuration, job_id)
        except Exception as error:
            reasons = [{"reason": "invalidQuery", "message": str(error)}]
            return self.reply(400, {"error": {"code": 400, "message": str(error), "errors": reasons}})
        self.server.last = job
        return self.reply(200, job)

    def do_GET(self):
        path = self.path.split("?")[0]
        if "discovery" in path:
            return self.reply(200, json.loads(description()))
        found = re.search(r"/queries/([^/]+)$", path)
        if found:
            return self.reply(200, self.server.results(found[1]))
        if re.search(r"/jobs/[^/]+$", path):
            return self.reply(200, self.server.last)
        if path.endswith("/jobs"):
            return self.reply(200, {"kind": "bigquery#jobList", "jobs": []})
        return self.reply(404, {"error": {"code": 404, "message": f"no route {path}"}})

    def reply(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@unittest.skipIf(description() is None, "bq is not installed")
class Install(unittest.TestCase):
    def setUp(self):
        day = "2026-11-02 10:00:00"
        calls = [call("a", day, 1800, labels={"team": "search"})]
        self.server = BigQuery(tables(calls, [charge("gpu", day, 0.672, amount=3600)]))
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        (Path(home.name) / "token").write_text("token-of-a-test")
        (Path(home.name) / "bigqueryrc").write_text(f"api = http://127.0.0.1:{self.server.server_port}\n")
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "GOOGLE_APPLICATION_CREDENTIALS"},
            "HOME": home.name,
            "BIGQUERYRC": f"{home.name}/bigqueryrc",
            "CLOUDSDK_CONFIG": f"{home.name}/gcloud",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": f"{home.name}/token",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        }

    def run_program(self, *command):
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)

    def install(self, *arguments):
        return self.run_program("scripts/install-views.sh", *arguments)

    def test_all_views_are_made_twice_and_answer(self):
        arguments = ("p-1", "tollgate", "p-1.billing.gcp_billing_export_v1_01")
        for _ in range(2):
            done = self.install(*arguments)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        names = ["usage_settings", "usage_unique", "usage_daily", "cost_lines", "cost_daily", "cost_monthly", "cost_by_team"]
        self.assertEqual(list(self.server.views), [f"tollgate.{name}" for name in names])
        query = "SELECT team, amount FROM tollgate.cost_by_team ORDER BY amount, team"
        shown = self.run_program("bq", "--project_id=p-1", "--headless", "--format=csv", "query", "--use_legacy_sql=false", query)
        self.assertEqual(shown.stdout.split(), ["team,amount", "search,0.33", ",0.34"], shown.stderr)

    def test_without_a_bill_only_usage_is_installed(self):
        done = self.install("p-1", "tollgate")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(list(self.server.views), ["tollgate.usage_settings", "tollgate.usage_unique", "tollgate.usage_daily"])

    def test_a_missing_table_is_said(self):
        done = self.install("p-1", "elsewhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("views.sql was not installed", done.stderr)

    def test_words_that_are_no_names_never_reach_sql(self):
        for arguments in (("p-1", "d`; DROP"), ("p 1", "d"), ("p-1", "d", "a.b"), ("p-1",), ("p-1", "d", "a.b.c", "e")):
            self.assertEqual(self.install(*arguments).returncode, 64, arguments)
        self.assertEqual(self.server.statements, [])

    def test_the_page_tells_how_to_reconcile(self):
        row = call("b", "2026-11-02 12:00:00")
        self.server.data["p-1.tollgate.run_googleapis_com_stdout"] = log_table([(instant("2026-11-02 12:00:10"), row)])
        page = (ROOT / "docs/cost.md").read_text()
        command = re.search(r"(?m)^    sed .*\n.*$", page)[0]
        command = command.replace("PROJECT.", "p-1.")
        for said in ("1", "0"):
            done = self.run_program("bash", "-c", command.replace("bq query", "bq --project_id=p-1 --headless query"))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(f"affected rows: {said}", done.stdout)
        self.assertEqual([r["request_id"] for r in self.server.data["p-1.tollgate.usage"]["rows"]], ["a", "b"])


if __name__ == "__main__":
    unittest.main()
