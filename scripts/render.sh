#!/usr/bin/env bash
# Prints a file with each ${NAME} replaced by the environment's variable of that name. A name that is
# not set, or empty, is a fault. Values are taken as they are. A line marked `# NAME? ` counts, without
# the mark, if that variable is set, and is left out if it is not.
#
#   PROJECT=p IMAGE=i VLLM_URL=u scripts/render.sh service.yaml
set -euo pipefail

text=$(<"${1:?which file?}")
while [[ $text =~ '# '([A-Z_]+)'? ' ]]; do
    name=${BASH_REMATCH[1]}
    if [[ -n ${!name:-} ]]; then
        text=${text//"# $name? "/}
    else
        text=$(grep -vF "# $name? " <<<"$text")
    fi
done
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
