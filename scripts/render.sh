#!/usr/bin/env bash
# Prints a file with each ${NAME} replaced by the environment's variable of that name. A name that is
# not set, or empty, is a fault. Values are taken as they are; the files know no other escapes.
#
#   PROJECT=p IMAGE=i VLLM_URL=u scripts/render.sh service.yaml
set -euo pipefail

text=$(<"${1:?which file?}")
missing=()
# In the order of the file; what was put in is not looked at again.
done_part=""
while [[ $text =~ \$\{([A-Z_]+)\} ]]; do
    name=${BASH_REMATCH[1]}
    [[ -n ${!name:-} ]] || missing+=("$name")
    done_part+=${text%%"\${$name}"*}${!name:-}
    text=${text#*"\${$name}"}
done
if [[ ${#missing[@]} -gt 0 ]]; then
    echo "render.sh: $1 needs ${missing[*]}" >&2
    exit 64
fi
printf '%s\n' "$done_part$text"
