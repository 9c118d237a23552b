"""Reads an export with pandas, polars and DuckDB and compares it with the answers of `matchtape query`.

Usage: parquet.py BINARY DATA EXPORT
"""

import csv
import decimal
import json
import pathlib
import subprocess
import sys

import blake3
import duckdb
import pandas
import polars
import pyarrow.parquet

binary, data, export = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
Decimal = decimal.Decimal
decimal.getcontext().prec = 60
checks = 0


def same(what, expected, *found):
    """Every reader found what was expected."""
    global checks
    for answer in found:
        if answer != expected:
            sys.exit(f"{what}: expected {str(expected)[:300]}, found {str(answer)[:300]}")
        checks += 1


def query(*arguments):
    """The rows of `matchtape query`, as dictionaries of strings; what is absent is empty."""
    command = [binary, "query", *arguments, "--data", data, "--format", "csv"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(csv.DictReader(output.splitlines()))


def ask(question):
    """DuckDB's only row for a question."""
    return duckdb.sql(question).fetchall()[0]


def ns(moment):
    return None if moment is None or pandas.isna(moment) else pandas.Timestamp(moment).value


# How a value of a column stands in `query`'s CSV, given what pandas read from the file.
def as_number(value):
    return "" if value == 0 else str(value)


def as_time(value):
    return "" if ns(value) is None else str(ns(value))


def as_decimal(value):
    if value is None:
        return ""
    assert isinstance(value, Decimal), type(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_text(value):
    return "" if value is None or value is pandas.NA or value != value else value


FLAGS = ["last_of_group", "late", "reports_only", "snapshot"]
NUMBERS = {
    "instrument_id", "order_id", "new_order_id", "trade_id", "buy_order_id", "sell_order_id", "venue_flags",
    "send_delay_ns", "account", "buy_account", "sell_account", "publisher", "channel", "venue_instrument_id", "participant",
    "trade_sequence", "previous_epoch", "previous_last_sequence",
}
PLAIN = {"sequence", "epoch", "producer", "producer_sequence", "venue_sequence", "trading_day", "session", "term"}
TIMES = {"event_time", "accepted_time", "receive_time", "expires"}
DECIMALS = {"price", "quantity", "leaves_quantity", "price_increment", "quantity_increment", "change", "position"}
TEXTS = {
    "instrument", "side", "aggressor", "client_order_id", "order_type", "time_in_force", "liquidity", "cancel_reason",
    "reject_reason", "trading_status", "name", "currency", "venue", "instrument_class", "account_status", "participant_name",
    "node",
}
# Zero quantities left and equal new ids are left out of rows.
ZERO_IS_ABSENT = {"leaves_quantity", "quantity_increment"}


def shown(frame, column):
    """A column of pandas' frame as `query` shows it."""
    values = frame[column]
    if column in PLAIN:
        assert str(values.dtype).startswith("uint"), (column, values.dtype)
        return [str(value) for value in values]
    if column in NUMBERS:
        assert "int" in str(values.dtype), (column, values.dtype)
        return [as_number(value) for value in values]
    if column in TIMES:
        assert str(values.dtype) == "datetime64[ns, UTC]", (column, values.dtype)
        return [as_time(value) for value in values]
    if column in DECIMALS:
        texts = [as_decimal(value) for value in values]
        return ["" if text == "0" and column in ZERO_IS_ABSENT else text for text in texts]
    return [as_text(value) for value in values]


manifest = json.loads((export / "manifest.json").read_text())
all_rows = query("events")
kinds = sorted({row["kind"] for row in all_rows})
same("kinds", kinds, sorted(file["kind"] for file in manifest["files"]))
same("events", len(all_rows), manifest["events"], sum(file["rows"] for file in manifest["files"]))
same("files", sorted([f"{kind}.parquet" for kind in kinds] + ["manifest.json"]), sorted(path.name for path in export.iterdir()))

compared = 0
for file in manifest["files"]:
    path, kind = export / file["file"], file["kind"]
    rows = [row for row in all_rows if row["kind"] == kind]
    same(f"{kind}: bytes", path.stat().st_size, file["bytes"])
    same(f"{kind}: hash", blake3.blake3(path.read_bytes()).hexdigest(), file["blake3"])
    metadata = pyarrow.parquet.read_metadata(path)
    stated = {key.decode(): value.decode() for key, value in metadata.metadata.items() if key.startswith(b"matchtape.")}
    same(f"{kind}: metadata", {
        "matchtape.schema_version": "1", "matchtape.tape": manifest["tape"], "matchtape.kind": kind,
        "matchtape.from": str(manifest["from"]), "matchtape.through": str(manifest["through"]),
    }, stated)
    for group in range(metadata.num_row_groups):
        assert metadata.row_group(group).num_rows <= 65536
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema in TEXTS:
                assert "RLE_DICTIONARY" in column.encodings, (kind, column.path_in_schema, column.encodings)
    schema = pyarrow.parquet.read_schema(path)
    assert not any(pyarrow.types.is_floating(field.type) for field in schema), schema
    same(f"{kind}: price", *(["decimal128(19, 9)"] * 2 if "price" not in schema.names
                             else ["decimal128(19, 9)", str(schema.field("price").type)]))
    same(f"{kind}: quantity", *(["decimal128(20, 9)"] * 2 if "quantity" not in schema.names
                                else ["decimal128(20, 9)", str(schema.field("quantity").type)]))

    frame = pandas.read_parquet(path)
    lazy = polars.read_parquet(path)
    same(f"{kind}: count", len(rows), len(frame), lazy.height, ask(f"select count(*) from '{path}'")[0], file["rows"])
    sequences = [int(row["sequence"]) for row in rows]
    same(f"{kind}: sequences", sequences, frame["sequence"].tolist(), lazy["sequence"].to_list(),
         [row[0] for row in duckdb.sql(f"select sequence from '{path}'").fetchall()])
    same(f"{kind}: first and last", (sequences[0], sequences[-1]), (file["first_sequence"], file["last_sequence"]))

    # Every column that rows of `query events` have too, value by value, as the exact strings.
    for column in schema.names:
        if column in PLAIN | NUMBERS | TIMES | DECIMALS | TEXTS:
            expected = [row[column] for row in rows]
            found = shown(frame, column)
            if column == "new_order_id":
                found = ["" if new == old else new for new, old in zip(found, shown(frame, "order_id"))]
            same(f"{kind}: {column}", expected, found)
            compared += len(rows)
    flags = ["|".join(flag for flag, held in zip(FLAGS, row) if held) for row in zip(*(frame[flag] for flag in FLAGS))]
    same(f"{kind}: flags", [row["flags"] for row in rows], flags)

    # The three readers agree on sums and extremes, and with the rows.
    for column in schema.names:
        if column in DECIMALS and any(row[column] for row in rows):
            values = [Decimal(row[column] or 0) for row in rows]
            given = [value for value in frame[column] if value is not None]
            same(f"{kind}: sum of {column}", sum(values), sum(given),
                 sum(value for value in lazy[column].to_list() if value is not None),
                 ask(f"select sum({column}::decimal(38,9)) from '{path}'")[0])
            same(f"{kind}: extremes of {column}", (min(given), max(given)), (lazy[column].min(), lazy[column].max()),
                 ask(f"select min({column}), max({column}) from '{path}'"))
        if column in TIMES and any(row[column] for row in rows):
            times = [int(row[column]) for row in rows if row[column]]
            nanoseconds = polars.col(column).dt.epoch("ns")
            same(f"{kind}: extremes of {column}", (min(times), max(times)),
                 (ns(frame[column].min()), ns(frame[column].max())),
                 lazy.select(nanoseconds.min().alias("least"), nanoseconds.max().alias("greatest")).row(0))
            same(f"{kind}: extremes of {column} in DuckDB", (min(times), max(times)),
                 ask(f"select epoch_ns(min({column})), epoch_ns(max({column})) from '{path}'"))

# Whole frames of trades: `query trades --format csv`, read by pandas as exact strings, against the three readers.
command = [binary, "query", "trades", "--data", data, "--format", "csv"]
with subprocess.Popen(command, stdout=subprocess.PIPE) as answer:
    trades = pandas.read_csv(answer.stdout, dtype=str, keep_default_na=False)
assert answer.returncode == 0
columns = [column for column in trades.columns if column != "busted"]
path = export / "trade_matched.parquet"
frames = {
    "pandas": pandas.read_parquet(path, columns=columns),
    "polars": polars.read_parquet(path, columns=columns).to_pandas(),
    "pandas with Arrow's types": pandas.read_parquet(path, columns=columns, dtype_backend="pyarrow"),
}
for reader, frame in frames.items():
    as_strings = pandas.DataFrame({
        column: [as_time(value) if column in TIMES else as_decimal(value) if column in DECIMALS
                 else as_text(value) if column in TEXTS else str(value) if column in PLAIN else as_number(value)
                 for value in frame[column]]
        for column in columns
    }, dtype=trades.dtypes.iloc[0])
    pandas.testing.assert_frame_equal(trades[columns], as_strings, obj=f"trades as {reader} reads them")
    checks += 1
in_duckdb = duckdb.sql(
    f"select sequence::varchar, price::varchar, quantity::varchar, aggressor, trade_id from '{path}' order by sequence"
).fetchall()
plain = lambda text: text.rstrip("0").rstrip(".")
same("trades as DuckDB reads them",
     list(zip(trades["sequence"], trades["price"], trades["quantity"], trades["aggressor"], trades["trade_id"])),
     [(row[0], plain(row[1]), plain(row[2]), row[3], as_number(row[4])) for row in in_duckdb])

print(f"{checks} passed, 0 failed ({compared} values of {len(all_rows)} events, {len(trades)} trades; "
      f"pandas {pandas.__version__}, polars {polars.__version__}, DuckDB {duckdb.__version__})")
