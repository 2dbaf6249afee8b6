"""Compares answers with what is expected: `compare.py DIR OUT`.

DIR is what `generate.py` left, OUT has `<n>.arrow` or `<n>.error` for the line n of `cases.jsonl`. Rows must
be the same in the same order, columns have the same names in the same order, values be equal: instants
whatever their unit, decimals by value, NaN equal to NaN, -0.0 equal to 0.0. Types are compared by what
they are, not by how wide: text, binary, integer, float, decimal, instant with or without a zone.
"""

import json
import math
import os
import sys

import pyarrow as pa

import predicates
import tables

SHOWN_FAILURES_MAX = 20


def kind_of(type):
    """What a type is, whatever its width and unit."""
    types = pa.types
    if type == pa.bool8():
        return "bool"
    if isinstance(type, pa.BaseExtensionType):
        return kind_of(type.storage_type)
    if types.is_dictionary(type):
        return kind_of(type.value_type)
    if types.is_integer(type) or types.is_duration(type):
        return "integer"
    if types.is_floating(type):
        return "float"
    if types.is_decimal(type):
        return "decimal"
    if types.is_timestamp(type):
        return "instant" if type.tz else "local time"
    if types.is_date(type):
        return "date"
    if types.is_time(type):
        return "time"
    if types.is_map(type):
        return f"map of {kind_of(type.key_type)} to {kind_of(type.item_type)}"
    if tables.is_list(type):
        return f"list of {kind_of(type.value_type)}"
    if types.is_struct(type):
        return "struct of " + ", ".join(f"{field.name} {kind_of(field.type)}" for field in type)
    if predicates.is_text(type):
        return "text"
    if predicates.is_bytes(type) or types.is_binary_view(type):
        return "binary"
    return str(type)


def plain_values(array):
    """An array's values as Python compares them: instants and times in nanoseconds, NaN as a word."""
    type = array.type
    if isinstance(type, pa.BaseExtensionType):
        return plain_values(array.storage)
    if pa.types.is_dictionary(type):
        return plain_values(array.dictionary_decode())
    if pa.types.is_struct(type):
        children = [plain_values(array.field(number)) for number in range(type.num_fields)]
        rows = list(zip(*children)) if children else [()] * len(array)
        return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist())]
    if pa.types.is_map(type):
        items = list(zip(plain_values(array.keys), plain_values(array.items)))
        return lists_of(array, items)
    if tables.is_list(type):
        if not (pa.types.is_list(type) or pa.types.is_large_list(type)):
            array = array.cast(pa.large_list(type.value_type))
        return lists_of(array, plain_values(array.values))
    if pa.types.is_floating(type):
        return ["NaN" if value is not None and math.isnan(value) else value for value in array.to_pylist()]
    if pa.types.is_duration(type):
        return array.cast(pa.int64()).to_pylist()
    if pa.types.is_date(type) or pa.types.is_time(type) or pa.types.is_timestamp(type) or predicates.is_text(type):
        return predicates.comparable_values(array)
    return array.to_pylist()


def lists_of(array, items):
    offsets = array.offsets.to_pylist()
    valid = array.is_valid().to_pylist()
    return [items[offsets[row] : offsets[row + 1]] if valid[row] else None for row in range(len(array))]


def values_of(column):
    return [value for chunk in column.chunks for value in plain_values(chunk)]


def difference(expected, answer):
    """None where the answer is right, else lines that say how it is not."""
    # Columns are those of the files that were looked into: what all others have is NULL in every row.
    unseen = [name for name in expected.column_names if name not in answer.column_names]
    if all(expected.column(name).null_count == expected.num_rows for name in unseen):
        expected = expected.drop_columns(unseen)
    if expected.column_names != answer.column_names:
        return [f"columns expected: {expected.column_names}", f"columns answered: {answer.column_names}"]
    for left, right in zip(expected.schema, answer.schema):
        kinds = kind_of(left.type), kind_of(right.type)
        if kinds[0] != kinds[1] and "null" not in kinds:
            return [f"column {left.name} expected as {left.type}, answered as {right.type}"]
    lines = []
    if expected.num_rows != answer.num_rows:
        lines.append(f"rows expected: {expected.num_rows}, answered: {answer.num_rows}")
    first = None
    for name, left, right in zip(expected.column_names, expected.columns, answer.columns):
        if left.type == right.type and left.equals(right):
            continue
        left, right = values_of(left), values_of(right)
        shorter = min(len(left), len(right))
        differing = next((row for row in range(shorter) if left[row] != right[row]), None)
        if differing is None and len(left) != len(right):
            differing = shorter
        if differing is not None and (first is None or differing < first[0]):
            first = differing, name
    if first is None:
        return lines or None
    row, name = first
    lines.append(f"first difference in row {row}, column {name}:")
    for number in range(row, min(row + 3, max(expected.num_rows, answer.num_rows))):
        lines.append(f"  row {number} expected {row_text(expected, number)}")
        lines.append(f"  row {number} answered {row_text(answer, number)}")
    return lines


def row_text(table, number):
    if number >= table.num_rows:
        return "no such row"
    row = table.slice(number, 1)
    text = ", ".join(f"{name}: {values_of(row.column(name))[0]!r}" for name in table.column_names)
    return text if len(text) <= 600 else text[:600] + "…"


def answer_of(folder, number):
    """The answer's table, or the sentence that refuses it; or neither."""
    arrow, error = os.path.join(folder, f"{number}.arrow"), os.path.join(folder, f"{number}.error")
    if os.path.exists(error):
        with open(error, encoding="utf-8", errors="replace") as file:
            return None, file.read().strip()
    if os.path.exists(arrow):
        with pa.OSFile(arrow) as file, pa.ipc.open_stream(file) as stream:
            return stream.read_all(), None
    return None, None


def failure(expected, reference, folder, number):
    """None where the case is right, else lines that say how it is not."""
    try:
        answer, sentence = answer_of(folder, number)
        if answer is not None:
            answer.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        return [f"the answer is not an Arrow stream: {error}"]
    if answer is None and sentence is None:
        return ["there is no answer"]
    if "error" in expected:
        if answer is not None:
            return [f"expected an error ({expected['error']}), answered {answer.num_rows} rows"]
        return None if sentence else ["the error says nothing"]
    if answer is None:
        return [f"refused: {sentence or 'without a sentence'}"]
    with pa.OSFile(reference) as file, pa.ipc.open_stream(file) as stream:
        return difference(stream.read_all(), answer)


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main():
    folder, out = sys.argv[1:]
    cases = lines_of(os.path.join(folder, "cases.jsonl"))
    expectations = lines_of(os.path.join(folder, "expected.jsonl"))
    failed, rows = 0, 0
    for number, (case, expected) in enumerate(zip(cases, expectations)):
        rows += expected.get("rows", 0)
        wrong = failure(expected, os.path.join(folder, "expected", f"{number}.arrow"), out, number)
        if wrong is None:
            continue
        failed += 1
        if failed > SHOWN_FAILURES_MAX:
            continue
        print(f"WRONG {case['name']} (case {number}, written by {', '.join(expected['writers'])})")
        print(f"  files:  {' '.join(case['paths'])}")
        print(f"  where:  {case['where'][:500]}")
        print(f"  select: {case['select'] or 'all'}, limit {case['limit']}")
        for line in wrong:
            print(f"  {line}")
        print(f"  replay: {expected['replay']}")
    if failed:
        print(f"{failed} of {len(cases)} cases are wrong" + (f"; the first {SHOWN_FAILURES_MAX} are shown" if failed > SHOWN_FAILURES_MAX else ""))
        raise SystemExit(1)
    refused = sum("error" in expected for expected in expectations)
    print(f"{len(cases)} cases right: {rows} rows, {refused} refusals")


if __name__ == "__main__":
    main()
