#!/bin/sh
# s3cmd: put, get, list, copy, delete.
set -eu
host=${AWS_ENDPOINT_URL#*://}
run() {
    s3cmd --config=/dev/null --no-progress --no-ssl --host="$host" --host-bucket="$host" --region=us-east-1 \
        --access_key="$AWS_ACCESS_KEY_ID" --secret_key="$AWS_SECRET_ACCESS_KEY" "$@"
}
head -c 20000000 /dev/urandom > large
run --multipart-chunk-size-mb=5 put large s3://lake/s3cmd/large > /dev/null
run get s3://lake/s3cmd/large back > /dev/null
cmp large back
head -c 77 /dev/urandom > small
run put small 's3://lake/s3cmd/a small one' > /dev/null
run cp 's3://lake/s3cmd/a small one' s3://lake/s3cmd/copy > /dev/null
run get s3://lake/s3cmd/copy copy > /dev/null
cmp small copy
run ls --recursive s3://lake/s3cmd/ | grep -q 's3://lake/s3cmd/a small one'
run del --recursive --force s3://lake/s3cmd/ > /dev/null
test -z "$(run ls --recursive s3://lake/s3cmd/)"
