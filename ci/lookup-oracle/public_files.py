"""The files of apache/parquet-testing: read as pyarrow reads them, or refused with a reason.

    public_files.py build DIR OUT         DIR is a clone (its `data/` and `bad_data/`): cases and expectations in OUT
    public_files.py compare OUT ANSWERS   a table of all files; exit code 1 where an answer is wrong

Per file: the first rows of all columns, and per comparable leaf an equality with a value that occurs
and an IS NULL. What pyarrow refuses may be read or refused; nothing may be left without an answer.
"""

import concurrent.futures
import json
import os
import resource
import shutil
import subprocess
import sys

import pyarrow as pa

import compare
import predicates
import tables

ROWS_MAX = 1000
# pyarrow itself may hang or need much memory on what is bad on purpose.
SECONDS_MAX = 60
MEMORY_BYTES_MAX = 8 << 30

# What pyarrow reads and we may refuse, with the reason. Refusing another file is wrong.
MAY_BE_REFUSED = {
    "data/datapage_v1-corrupt-checksum.parquet": "its checksums are wrong, which pyarrow looks at only when asked",
    "data/rle-dict-uncompressed-corrupt-checksum.parquet": "its checksums are wrong, which pyarrow looks at only when asked",
    "data/dict-page-offset-zero.parquet": "its footer has lists of a wrong type, which `parquet` refuses",
    "data/int96_from_spark.parquet": "its years are beyond nanoseconds",
}
# Where pyarrow's default is not what the file says: options that read it right.
READ_WITH = {
    "data/int96_from_spark.parquet": ({"coerce_int96_timestamp_unit": "us"}, "its years are beyond nanoseconds"),
}


def files_of(folder):
    for place, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if ".parquet" in name and not name.endswith(".json"):
                path = os.path.join(place, name)
                yield os.path.relpath(path, folder), path


def build(folder, out):
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(os.path.join(out, "expected"))
    files = [found for found in files_of(os.path.abspath(folder)) if found[0].startswith(("data/", "bad_data/"))]
    places = [os.path.join(out, f"file-{number}") for number in range(len(files))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(build_apart, files, places))
    count = 0
    with open(os.path.join(out, "cases.jsonl"), "w") as cases, open(os.path.join(out, "expected.jsonl"), "w") as expected:
        for place in places:
            for part, whole in (("cases.jsonl", cases), ("expected.jsonl", expected)):
                with open(os.path.join(place, part)) as file:
                    lines = file.readlines()
                whole.writelines(lines)
            for number in range(len(lines)):
                answer = os.path.join(place, "expected", f"{number}.arrow")
                if os.path.exists(answer):
                    os.rename(answer, os.path.join(out, "expected", f"{count + number}.arrow"))
            count += len(lines)
            shutil.rmtree(place)
    print(f"{count} cases of {len(files)} public Parquet files")


def build_apart(found, place):
    """A file's cases, by a process of its own: what reads it may die of it."""
    name, path = found
    os.makedirs(os.path.join(place, "expected"))
    try:
        command = [sys.executable, __file__, "build-one", name, path, place]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
        why = f"pyarrow died of it ({ended.returncode}): {ended.stderr[-300:]}" if ended.returncode else None
    except subprocess.TimeoutExpired:
        why = f"pyarrow took more than {SECONDS_MAX} s"
    if why:
        shutil.rmtree(place)
        os.makedirs(os.path.join(place, "expected"))
        add(place, 0, name, path, "", [], ROWS_MAX, refused=why)


def build_one(name, path, out):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    options, _ = READ_WITH.get(name, ({}, None))
    try:
        table = tables.read_whole(path, **options)
        table.validate(full=True)
        usable = tables.canonical_table(table)
    except Exception as error:
        add(out, 0, name, path, "", [], ROWS_MAX, refused=str(error))
        return
    add(out, 0, name, path, "", [], ROWS_MAX, answer=table.slice(0, ROWS_MAX))
    number = 1
    rows = predicates.Rows(usable)
    for leaf, leaf_type in predicates.leaf_paths(usable.schema):
        if not predicates.is_comparable(leaf_type) or any("." in part for part in leaf):
            continue
        values = rows.of(leaf)
        literal = literal_of(leaf_type, values)
        trees = [("null", leaf)] + ([("compare", leaf, "=", literal)] if literal else [])
        for tree in trees:
            found = [row for row, holds in enumerate(predicates.matches(tree, rows)) if holds][:ROWS_MAX]
            # All columns for the equality, the one for IS NULL.
            select = [] if tree[0] == "compare" else [".".join(leaf)]
            answer = usable.take(pa.array(found, pa.int64()))
            if select:
                answer = pa.table([predicates.column_at(answer, leaf)], names=select)
            add(out, number, name, path, predicates.text_of(tree), select, ROWS_MAX, answer=answer)
            number += 1


class Middle:
    """A source of choices that is not random: the first, and never what is improbable."""

    def random(self):
        return 0.999

    def choice(self, options):
        return options[0] if not isinstance(options, list) or len(options) < 3 else options[len(options) // 2]


def literal_of(type, values):
    """A literal for a value that occurs, or None."""
    for value in values[len(values) // 2 :] + values[: len(values) // 2]:
        if value is None or (isinstance(value, float) and value - value != 0):
            continue
        literal = predicates.random_literal(Middle(), type, [value])
        return literal if predicates.literal_value(literal, type) == value else None
    return None


def add(out, number, name, path, where, select, limit, answer=None, refused=None):
    case = {"name": name, "paths": [path], "where": where, "select": select, "limit": limit}
    expected = {"name": name, "refused": refused, "rows": None if answer is None else answer.num_rows}
    for kind, line in (("cases.jsonl", case), ("expected.jsonl", expected)):
        with open(os.path.join(out, kind), "a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if answer is not None:
        with pa.ipc.new_stream(os.path.join(out, "expected", f"{number}.arrow"), answer.schema) as stream:
            stream.write_table(answer)


def compared(out, answers):
    cases = compare.lines_of(os.path.join(out, "cases.jsonl"))
    expectations = compare.lines_of(os.path.join(out, "expected.jsonl"))
    verdicts, wrong = {}, 0
    for number, (case, expected) in enumerate(zip(cases, expectations)):
        verdict, lines = verdict_of(expected, out, answers, number)
        verdicts.setdefault(case["name"], []).append(verdict)
        if lines:
            wrong += 1
            print(f"WRONG {case['name']} (case {number} of {os.path.join(out, 'cases.jsonl')})")
            print(f"  where: {case['where'][:300] or 'every row'}; select: {case['select'] or 'all'}, limit {case['limit']}")
            for line in lines:
                print(f"  {line}")
    width = max(len(name) for name in verdicts)
    for name, found in verdicts.items():
        kinds = list(dict.fromkeys(found))
        print(f"{name:{width}}  {len(found):3} cases: {'; '.join(kinds)}")
    for name, why in MAY_BE_REFUSED.items():
        print(f"may be refused: {name}: {why}")
    for name, (options, why) in READ_WITH.items():
        print(f"read by pyarrow with {options}: {name}: {why}")
    print(f"{len(cases)} cases of {len(verdicts)} public files, {wrong} wrong")
    raise SystemExit(1 if wrong else 0)


def shortened(sentence):
    return " ".join(sentence.split())[:160]


def verdict_of(expected, out, answers, number):
    """In a few words, and lines where it is wrong."""
    try:
        answer, sentence = compare.answer_of(answers, number)
    except (pa.ArrowInvalid, OSError) as error:
        return "WRONG", [f"the answer is not an Arrow stream: {error}"]
    if answer is None and sentence is None:
        return "WRONG", ["there is no answer"]
    if answer is None and not sentence:
        return "WRONG", ["refused without a sentence"]
    if expected["refused"] is not None:
        return (f"refused by both: {shortened(sentence)}", None) if answer is None else ("read; pyarrow refuses", None)
    if answer is None:
        if expected["name"] in MAY_BE_REFUSED or expected["name"].startswith("bad_data/"):
            return f"refused: {shortened(sentence)}", None
        return "WRONG", [f"refused, but pyarrow reads it: {sentence[:400]}"]
    # What bad files hold is for nobody to say.
    lines = None if expected["name"].startswith("bad_data/") else compare.failure(
        expected, os.path.join(out, "expected", f"{number}.arrow"), answers, number
    )
    return ("WRONG", lines) if lines else ("read", None)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build", folder, out]:
            build(folder, out)
        case ["build-one", name, path, out]:
            build_one(name, path, out)
        case ["compare", out, answers]:
            compared(out, answers)
        case _:
            sys.exit(__doc__)
