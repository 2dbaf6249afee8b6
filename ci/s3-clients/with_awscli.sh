#!/bin/sh
# The aws command line: sync there and back, large and small, byte for byte.
set -eu
mkdir -p tree/a/b
head -c 100 /dev/urandom > tree/small
head -c 20000000 /dev/urandom > tree/a/large
: > 'tree/a/b/empty file'
aws s3 sync --quiet tree s3://lake/aws/tree
aws s3 sync --quiet s3://lake/aws/tree back
diff -r tree back
aws s3 ls --recursive s3://lake/aws/ > listed
grep -q 'aws/tree/a/b/empty file' listed
aws s3 cp --quiet s3://lake/aws/tree/small s3://lake/aws/copied
aws s3 cp --quiet s3://lake/aws/copied - | cmp - tree/small
aws s3api get-object --bucket lake --key aws/tree/a/large --range bytes=19999999-30000000 last >/dev/null
tail -c 1 tree/a/large | cmp - last
aws s3 rm --quiet --recursive s3://lake/aws/
test -z "$(aws s3 ls --recursive s3://lake/aws/)"
