#!/usr/bin/env bash
# aioipc in shell pipelines, beside awk, sort and grep.
#
# Needs the aioipc command: after `make demo` say  PATH=.venv/bin:$PATH examples/shell_pipeline.sh
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sold=$scratch/sold
fifo=$scratch/fifo

echo "1. Lines go through a program at the other end of a channel:"
printf '%s\n' 30 4 200 | aioipc send --framing lines "exec:sort -n"

echo "2. Two producers send to one consumer, and awk sums up what it got:"
shop=unix:shop-$$
aioipc listen "$shop" >"$sold" 2>/dev/null &
consumer=$!
printf '%s\n' "north 3" "north 4" | aioipc send --wait-listener 10 "$shop" &
aioipc send --wait-listener 10 "$shop" "south 10" "south 1"
wait $!
kill $consumer
wait $consumer || [ $? -eq 143 ]
awk '{ sum[$1] += $2 } END { for (name in sum) print name, sum[name] }' "$sold" | sort

echo "3. A program that knows nothing of aioipc writes JSON lines into a FIFO:"
aioipc listen --framing lines --codec json --count 3 "fifo:$fifo" 2>/dev/null | grep warn &
reader=$!
until [ -p "$fifo" ]; do sleep 0.02; done
for level in info warn info; do
    echo "{\"level\": \"$level\", \"pid\": 7}"
done >"$fifo"
wait $reader

echo "4. A failure is one line and an exit status:"
aioipc send unix:nobody hello 2>&1 || echo "exit status $?"
