"""Generates files, cases and the answers that are expected of them.

    generate.py --seeds A..B --cases N --dir D [--only NAME]

A seed is a file set with N cases. Leaves in D: the files in `seed-<S>/`, `cases.jsonl` for the program
that answers, `expected.jsonl` (per case: what is expected, and how to replay it) and `expected/<n>.arrow`.
The answers come from the whole files as pyarrow reads them and the evaluator of `predicates.py`; where
DuckDB and pyarrow.dataset can be asked the same, they must agree with it.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq

import engines
import file_sets
import predicates


def random_select(rng, table):
    if rng.random() < 0.35:
        return []
    # What lies in a list or is a group within a struct is not asked for by itself.
    paths = [(name,) for name in table.column_names]
    paths += [path for path, _ in predicates.leaf_paths(table.schema) if len(path) > 1]
    return [".".join(path) for path in rng.sample(paths, min(len(paths), rng.randint(1, 4)))]


def projected(table, select):
    """The selected columns, leaves of structs under their dotted names."""
    if not select:
        return table
    columns = [predicates.column_at(table, path.split(".")) for path in select]
    return pa.table(columns, names=select)


def random_error(rng, rows, paths):
    """A request that has no answer: predicate, select, and why."""
    path, type = rng.choice(paths) if paths else (("absent",), pa.int64())
    name = ".".join(predicates.name_text(part) for part in path)
    kinds = [
        ("no_such_column = 1", [], "the predicate's column does not exist"),
        (f"{name} is null", ["no_such_column"], "a selected column does not exist"),
        (f"{name} =", [], "the text ends early"),
        (f"{name} is null and", [], "the text ends early"),
        (f"({name} is null", [], "a parenthesis is open"),
        (f"{name} = 'open", [], "a string is open"),
        ("absent.deeper = 1", [], "the predicate's column does not exist"),
    ]
    if pa.types.is_integer(type) or pa.types.is_decimal(type) or pa.types.is_floating(type):
        kinds += [(f"{name} = 'abc'", [], "the literal is not a number"), (f"{name} like 'a%'", [], "LIKE of a number")] * 2
    if pa.types.is_date(type) or pa.types.is_timestamp(type):
        kinds += [(f"{name} = '2024-13-45'", [], "the literal is not a date")] * 2
    return rng.choice(kinds)


def random_case(rng, rows, paths):
    """Predicate (or None for an error), text, select, limit, and what is odd about it."""
    table = rows.table
    limit = rng.choice([None, None, None, 1, 3, 10, 100, 1000]) if rng.random() < 0.98 else 0
    if rng.random() < 0.03:
        text, select, why = random_error(rng, rows, paths)
        return None, text, select, limit, why
    if not paths or rng.random() < 0.05:
        return ("and", []), "", random_select(rng, table), limit, None
    tree = predicates.random_tree(rng, rows, paths)
    return tree, predicates.text_of(tree, rng), random_select(rng, table), limit, None


def features_of_tree(tree):
    if tree[0] in ("and", "or"):
        return {tree[0]} | {feature for part in tree[1] for feature in features_of_tree(part)}
    found = {f"compare {tree[2]}" if tree[0] == "compare" else tree[0]}
    return found | ({"nested leaf"} if len(tree[1]) > 1 else set())


def features_of_file(path, writer):
    """What a file has, as its footer says."""
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        found = {f"writer {writer}", "several row groups" if metadata.num_row_groups > 1 else "one row group or none"}
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                found |= {f"codec {column.compression}", f"physical {column.physical_type}"}
                found |= {f"encoding {encoding}" for encoding in column.encodings}
                found.add("statistics" if column.is_stats_set else "chunk without statistics")
                if column.has_column_index:
                    found.add("page index")
                if column.bloom_filter_offset is not None:
                    found.add("bloom filter")
                # The dictionary, of at most 8 bytes a value: what is larger than it and indexes has plain pages.
                if column.has_dictionary_page:
                    dictionary = column.data_page_offset - column.dictionary_page_offset
                    numbers = column.physical_type in ("INT64", "DOUBLE") and column.compression == "UNCOMPRESSED"
                    if numbers and column.total_compressed_size > dictionary + column.num_values * 4 + 4096:
                        found.add("dictionary that overflows (seen where nothing is compressed)")
        for number in range(len(file.schema)):
            column = file.schema.column(number)
            found.add(f"logical {column.logical_type.type}")
            if column.max_repetition_level:
                found.add("repeated leaf")
            if column.max_definition_level == 0:
                found.add("required leaf")
            if "." in column.path:
                found.add("nested leaf")
    return found


def generate_seed(work):
    seed, case_count, folder, only = work
    try:
        return generate_file_set(seed, case_count, folder, only)
    except BaseException as error:
        error.add_note(f"in seed {seed}")
        raise


def generate_file_set(seed, case_count, folder, only):
    rng = random.Random(f"files of seed {seed}")
    place = os.path.join(folder, f"seed-{seed}")
    files, given_up = file_sets.readable_file_set(rng, place)
    rows = predicates.Rows(files.table)
    paths = [(path, type) for path, type in predicates.leaf_paths(files.table.schema) if predicates.is_comparable(type)]
    counts, disagreements, cases = collections.Counter(), [], []
    counts.update(f"file: {feature}" for path, writer in zip(files.paths, files.writers) for feature in features_of_file(path, writer))
    counts[f"set: {files.kind}"] += 1
    counts.update(f"set given up, pyarrow does not read it: {why.splitlines()[0][:90]}" for why in given_up)
    counts["rows"] += files.table.num_rows
    for number in range(case_count):
        name = f"seed-{seed}/{number}"
        rng = random.Random(f"case {number} of seed {seed}")
        tree, text, select, limit, why = random_case(rng, rows, paths)
        if only and only != name:
            continue
        case = {"name": name, "paths": files.paths, "where": text, "select": select, "limit": limit}
        if files.base:
            case["base"] = files.base
        expected = {
            "name": name,
            "replay": f"ci/lookup --seeds {seed}..{seed} --cases {case_count} --only {name}",
            "writers": sorted(set(files.writers)),
        }
        if tree is None:
            counts["case: error"] += 1
            cases.append((case, {**expected, "error": why}, None))
            continue
        found = [row for row, holds in enumerate(predicates.matches(tree, rows)) if holds]
        for feature in features_of_tree(tree):
            counts[f"case: {feature}"] += 1
        counts["case: no rows" if not found else "case: all rows" if len(found) == files.table.num_rows else "case: some rows"] += 1
        if len(files.paths) == 1:
            for engine, answer, why in engines.answers(files.paths[0], tree, rows):
                if answer is None:
                    counts[f"not cross-checked: {engine}: {why.splitlines()[0][:90]}"] += 1
                    continue
                counts[f"cross-check: {engine}"] += 1
                if answer != found:
                    wrong = sorted(set(answer) ^ set(found))[:5]
                    disagreements.append(f"{name}: {engine} finds {len(answer)}, the evaluator {len(found)}; first rows: {wrong}; {text[:300]}")
        if limit is not None:
            found = found[:limit]
        answer = projected(files.table.take(pa.array(found, pa.int64())), select)
        cases.append((case, {**expected, "rows": len(found)}, answer))
    return cases, counts, disagreements


def seeds_of(text):
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seeds", "--seed", type=seeds_of, required=True)
    arguments.add_argument("--cases", type=int, default=12)
    arguments.add_argument("--dir", required=True)
    arguments.add_argument("--only")
    arguments = arguments.parse_args()
    folder = os.path.abspath(arguments.dir)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "expected"))
    work = [(seed, arguments.cases, folder, arguments.only) for seed in arguments.seeds]
    counts, disagreements, number = collections.Counter(), [], 0
    with (
        multiprocessing.get_context("spawn").Pool(min(2, os.cpu_count() or 1)) as pool,
        open(os.path.join(folder, "cases.jsonl"), "w") as case_lines,
        open(os.path.join(folder, "expected.jsonl"), "w") as expected_lines,
    ):
        for cases, counts_of_seed, disagreements_of_seed in pool.imap(generate_seed, work):
            counts.update(counts_of_seed)
            disagreements += disagreements_of_seed
            for case, expected, answer in cases:
                case_lines.write(json.dumps(case, ensure_ascii=False) + "\n")
                expected_lines.write(json.dumps(expected, ensure_ascii=False) + "\n")
                if answer is not None:
                    with pa.ipc.new_stream(os.path.join(folder, "expected", f"{number}.arrow"), answer.schema) as stream:
                        stream.write_table(answer)
                number += 1
    with open(os.path.join(folder, "coverage.json"), "w") as file:
        json.dump(dict(sorted(counts.items())), file, indent=1, ensure_ascii=False)
    sets = counts["set: one file"] + counts["set: several files"] + counts["set: hive"]
    checks = ", ".join(f"{counts[name]} {name.split(': ')[1]}" for name in sorted(counts) if name.startswith("cross-check"))
    print(f"generated {number} cases over {sets} file sets of {counts['rows']} rows; cross-checked with {checks or 'nothing'}")
    for disagreement in disagreements:
        print(f"ENGINES DISAGREE {disagreement}")
    sys.exit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
