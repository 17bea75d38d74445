# shellcheck shell=bash disable=SC2034  # whoever sources this uses what it needs
# Sourced by the scripts of the deployment: the choices, in one place. The environment wins.
# Names of services, accounts, the secret and the dataset stand in the yaml files themselves.

PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null || true)}
if [[ -z $PROJECT || $PROJECT == "(unset)" ]]; then
    echo "${0##*/}: which project? Set PROJECT, or run: gcloud config set project NAME" >&2
    exit 64
fi
REGION=${REGION:-us-central1}                 # must have L4 GPUs
BQ_LOCATION=${BQ_LOCATION:-US}                # that of the billing export, or the views cannot join them

# Fits an L4 with room for some 80000 tokens of context, and calls tools. In the bucket below $MODEL_BUCKET/$MODEL.
MODEL=${MODEL:-Qwen/Qwen3-8B-FP8}
MAX_MODEL_LEN=${MAX_MODEL_LEN:-32768}
TOOL_CALL_PARSER=${TOOL_CALL_PARSER:-hermes}  # goes with the model
MODEL_BUCKET=${MODEL_BUCKET:-$PROJECT-tollgate-models}
VLLM_IMAGE=${VLLM_IMAGE:-docker.io/vllm/vllm-openai:v0.32.0}

# PROJECT:REGION:INSTANCE of a Cloud SQL for PostgreSQL instance, for users and token budgets; empty: none.
CLOUD_SQL=${CLOUD_SQL:-}

REPOSITORY=$REGION-docker.pkg.dev/$PROJECT/tollgate
GATEWAY_ACCOUNT=tollgate-gateway@$PROJECT.iam.gserviceaccount.com
VLLM_ACCOUNT=tollgate-vllm@$PROJECT.iam.gserviceaccount.com
BUILD_ACCOUNT=tollgate-build@$PROJECT.iam.gserviceaccount.com
BUILD_BUCKET=$PROJECT-tollgate-build
KEYS_SECRET=vllm-api-keys
SMOKE_SECRET=tollgate-smoke-key
DATASET=tollgate
LOG_SINK=tollgate-usage

export PROJECT REGION CLOUD_SQL MODEL MAX_MODEL_LEN TOOL_CALL_PARSER MODEL_BUCKET VLLM_IMAGE
export CLOUDSDK_CORE_PROJECT=$PROJECT CLOUDSDK_CORE_DISABLE_PROMPTS=1

# run COMMAND...: shows a command, then runs it.
run() {
    printf '+ %s\n' "$*" >&2
    "$@"
}

# url_of SERVICE: its address; empty if there is no such service.
url_of() {
    gcloud run services describe "$1" --region "$REGION" --format 'value(status.url)' 2>/dev/null || true
}
