#!/usr/bin/env python3
"""llama.cpp's own HTTP server, which the wheel of xllamacpp holds, until SIGTERM.

    llama_cpp.py MODEL.gguf PORT NAME [KEY]
"""
import signal
import sys

import xllamacpp

CONTEXT = 32768
PARALLEL = 4

model, port, name, *keys = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.model_alias = {name}
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.api_keys = keys
# Each slot has the whole context of the model.
params.n_ctx = CONTEXT * PARALLEL
params.n_parallel = PARALLEL
params.kv_unified = False
params.endpoint_metrics = True
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(f"llama.cpp listens at {server.listening_address}", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
