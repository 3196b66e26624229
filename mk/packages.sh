#!/bin/sh
# Installs the Debian packages named on the command line that are missing; where it may not, prints the line and stops.
set -eu
missing=""
for p in "$@"; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
    as=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as="sudo"
else
    echo "these packages are missing; install them and try again:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing" >&2
$as apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as apt-get install -y -qq --no-install-recommends $missing >/dev/null
