"""What the pages save as CSV, by running their script in node with a page of a few objects."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from importlib.resources import files

import pytest

NODE = shutil.which("node")
PAGE = """
const vm = require("node:vm"), fs = require("node:fs");
const { table, markers, script, heads } = JSON.parse(fs.readFileSync(0, "utf8"));
const blobs = [], handlers = [];
const cell = (text, span) => ({ dataset: {}, tagName: "TD", colSpan: span || 1, firstElementChild: null, children: [],
  childNodes: [{ nodeName: "#text", textContent: text }] });
const element = () => ({ style: {}, dataset: {}, classList: { contains: () => false },
  append() {}, remove() {}, click() {}, getContext: () => ({}),
  querySelector: () => null, closest: () => null, addEventListener(kind, act) { handlers.push(act); } });
const card = Object.assign(element(), { querySelector: (s) => (s.includes("save") ? element() : null) });
const drawn = { id: markers ? "markers" : "", closest: () => card,
  tHead: { rows: { length: heads } },
  rows: (table || []).map((row) => ({ cells: row.length === 1 ? [cell(row[0], 4)] : row.map((v) => cell(v)) })) };
const document = { title: "p", body: element(), styleSheets: [{ cssRules: [] }], createElement: element,
  addEventListener() {},
  getElementById: () => (markers ? { textContent: JSON.stringify(markers) } : null),
  querySelectorAll: (s) => (s.includes("table") ? [drawn] : []) };
class Blob { constructor(parts) { blobs.push(parts.join("")); } }
const URL = { createObjectURL: () => "", revokeObjectURL() {} };
vm.runInNewContext(script, { document, Blob, URL, setTimeout() {} });
handlers.forEach((act) => act());
process.stdout.write(JSON.stringify(blobs));
"""


def saved(**given) -> list[list[str]]:
    if NODE is None:
        pytest.skip("needs node")
    page = files("celbo.report") / "page"
    script = (page / "files.js").read_text() + (page / "save.js").read_text()
    told = json.dumps({"table": None, "markers": None, "script": script, "heads": 1, **given})
    done = subprocess.run([NODE, "-e", PAGE], input=told, capture_output=True, text=True, check=True)
    text = json.loads(done.stdout)[0]
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text[1:])))


def test_a_table_is_saved_with_numbers_that_programs_read():
    found = saved(table=[["", "n", "share"], ["Part one"], ['a, "b"', "1,234", "\u22120.5"], ["c", "\u2013", "95%"]])
    assert found == [
        ["part", "name", "n", "share"],
        ["Part one", 'a, "b"', "1234", "-0.5"],
        ["Part one", "c", "", "95%"],
    ]


def test_two_rows_of_headings_are_one_and_footnotes_are_gaps():
    table = [["", "Speed", ""], ["Method", "Sec\u00adonds", "MiB"], ["A", "1.5", "\u2013 b"], ["B", "2", "3"]]
    found = saved(table=table, heads=2)
    assert found == [["Method", "Speed: Seconds", "Speed: MiB"], ["A", "1.5", ""], ["B", "2", "3"]]


@pytest.mark.parametrize("name", ["=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_a_name_that_a_spreadsheet_would_compute_is_text(name):
    found = saved(markers={"columns": ["gene", "log2 FC"], "rows": [[name, -1.5]]})
    assert found == [["gene", "log2 FC"], ["'" + name, "-1.5"]]


def test_infinite_and_missing_values_of_genes():
    found = saved(markers={"columns": ["gene", "x", "y"], "rows": [["A", 1e308, None], ["B", -1e308, 1e-40]]})
    assert found[1:] == [["A", "inf", ""], ["B", "-inf", "1e-40"]]
