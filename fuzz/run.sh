#!/usr/bin/env bash
# Runs fuzz targets, adds what reaches new code to their corpus, and the results to RESULTS.json and RESULTS.md.
#
#     fuzz/run.sh [TARGET...]      default: all, one after another; MINUTES=10 for each; BUILT=1 if they are built
#
# Needs a nightly compiler, cargo-fuzz, jq and flock. An input that breaks an assertion is kept in artifacts/TARGET: fix
# the cause, then put the input into corpus/TARGET, where each `cargo test` replays it.
set -euo pipefail
cd "$(dirname "$0")"
minutes=${MINUTES:-10}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(basename -s .rs fuzz_targets/*.rs))
# The crate forbids unsafe code, so a sanitizer of addresses would only slow things down.
[ -n "${BUILT:-}" ] || cargo +nightly fuzz build --fuzz-dir . --sanitizer none
binaries=target/$(rustc -vV | sed -n 's/^host: //p')/release
failed=0
for target in "${targets[@]}"; do
    dictionary=$target.dict
    [ -e "$dictionary" ] || dictionary=json.dict
    # What is found goes to a folder of its own first: the corpus is in the repository, and small.
    log=$(mktemp) found=$(mktemp -d)
    mkdir -p "artifacts/$target"
    before=$(find "artifacts/$target" -type f | wc -l)
    began=$SECONDS
    "$binaries/$target" "$found" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time=$((minutes * 60)) -max_len=1024 -timeout=20 -dict="$dictionary" -print_final_stats=1 \
        2>"$log" || { failed=1; tail -n 40 "$log" >&2; }
    seconds=$((SECONDS - began))
    executions=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
    findings=$(($(find "artifacts/$target" -type f | wc -l) - before))
    # By the code that an input reaches, not by how often: else there are thousands.
    "$binaries/$target" -set_cover_merge=1 -use_counters=0 -max_len=1024 "corpus/$target" "$found" 2>/dev/null
    # libFuzzer names an input by its hash.
    for input in "corpus/$target"/*; do
        name=$(basename "$input")
        [ ${#name} -ne 40 ] || mv "$input" "corpus/$target/${name:0:12}"
    done
    # Several of these may run at once.
    (
        flock 9
        [ -s RESULTS.json ] || echo '[]' >RESULTS.json
        jq --arg target "$target" --argjson seconds "$seconds" --argjson executions "${executions:-0}" --argjson findings "$findings" \
            '. + [{$target, $seconds, $executions, $findings}]' RESULTS.json >"$log"
        cat "$log" >RESULTS.json
        {
            printf '# Results of fuzzing\n\nWritten by `fuzz/run.sh`, the sum of all runs in `RESULTS.json`. A finding is an input that broke an assertion.\n\n'
            printf '| target | minutes | executions | findings |\n|---|---:|---:|---:|\n'
            jq -r 'group_by(.target)[] | "| `\(.[0].target)` | \(map(.seconds) | add / 6 | round / 10) | \(map(.executions) | add) | \(map(.findings) | add) |"' RESULTS.json
        } >RESULTS.md
    ) 9>>artifacts/.lock
    rm -rf "$log" "$found"
done
exit $failed
