#!/bin/sh
# rclone: copies with checks of sizes and checksums.
set -eu
export RCLONE_CONFIG_LAKE_TYPE=s3 RCLONE_CONFIG_LAKE_PROVIDER=Other RCLONE_CONFIG_LAKE_ENV_AUTH=true \
       RCLONE_CONFIG_LAKE_ENDPOINT="$AWS_ENDPOINT_URL" RCLONE_CONFIG_LAKE_REGION=us-east-1 RCLONE_CONFIG=/dev/null
mkdir -p tree/a
head -c 1000 /dev/urandom > 'tree/a name with spaces'
head -c 30000000 /dev/urandom > tree/a/large
rclone copy --s3-upload-cutoff 10M --s3-chunk-size 5M tree lake:lake/rclone/tree
rclone copy --multi-thread-cutoff 10M --multi-thread-streams 4 lake:lake/rclone/tree back
diff -r tree back
rclone check --download tree lake:lake/rclone/tree
rclone copyto lake:lake/rclone/tree/a/large lake:lake/rclone/moved
rclone cat lake:lake/rclone/moved | cmp - tree/a/large
test "$(rclone lsf -R --files-only lake:lake/rclone | sort | tr '\n' '|')" = 'moved|tree/a name with spaces|tree/a/large|'
rclone purge lake:lake/rclone
