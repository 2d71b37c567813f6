#!/usr/bin/env bash
# Runs fuzz targets, minimises their corpus, and adds what came of it to RESULTS.json and RESULTS.md.
#
#     fuzz/run.sh [TARGET...]      default: all; MINUTES=10 for each
#
# Needs a nightly compiler, cargo-fuzz and jq. An input that breaks an assertion is kept in artifacts/TARGET: mend the
# cause, then put the input into corpus/TARGET, where each `cargo test` replays it.
set -euo pipefail
cd "$(dirname "$0")"
minutes=${MINUTES:-10}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(token_answer device_answer error_body callback_url)
# The crate forbids unsafe code, so a sanitizer of addresses would only slow things down.
cargo +nightly fuzz build --fuzz-dir . --sanitizer none
binaries=target/$(rustc -vV | sed -n 's/^host: //p')/release
failed=0
for target in "${targets[@]}"; do
    dictionary=json.dict
    [ "$target" != callback_url ] || dictionary=callback.dict
    # What is found goes to a folder of its own first: the corpus is in the repository, and small.
    log=$(mktemp) found=$(mktemp -d) merged=$(mktemp -d)
    mkdir -p "artifacts/$target"
    before=$(find "artifacts/$target" -type f | wc -l)
    began=$SECONDS
    "$binaries/$target" "$found" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time=$((minutes * 60)) -max_len=1024 -timeout=20 -dict=$dictionary -print_final_stats=1 \
        2>"$log" || { failed=1; tail -n 40 "$log" >&2; }
    seconds=$((SECONDS - began))
    executions=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
    findings=$(($(find "artifacts/$target" -type f | wc -l) - before))
    "$binaries/$target" -merge=1 -max_len=1024 "$merged" "corpus/$target" "$found" 2>/dev/null
    # libFuzzer names an input by its hash.
    known=$(find "corpus/$target" -type f -exec sha1sum {} +)
    for input in "$merged"/*; do
        hash=$(basename "$input")
        [[ $known == *$hash* ]] || cp "$input" "corpus/$target/${hash:0:12}"
    done
    [ -s RESULTS.json ] || echo '[]' >RESULTS.json
    jq --arg target "$target" --argjson seconds "$seconds" --argjson executions "${executions:-0}" --argjson findings "$findings" \
        '. + [{$target, $seconds, $executions, $findings}]' RESULTS.json >"$log"
    cat "$log" >RESULTS.json
    rm -rf "$log" "$found" "$merged"
done
{
    printf '# Results of fuzzing\n\nWritten by `fuzz/run.sh`, the sum of all runs in `RESULTS.json`. A finding is an input that broke an assertion.\n\n'
    printf '| target | minutes | executions | findings |\n|---|---:|---:|---:|\n'
    jq -r 'group_by(.target)[] | "| `\(.[0].target)` | \(map(.seconds) | add / 6 | round / 10) | \(map(.executions) | add) | \(map(.findings) | add) |"' RESULTS.json
} >RESULTS.md
exit $failed
