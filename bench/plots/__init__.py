"""What benches measured, as pictures: a file for each kind, drawn from the documents that `--json` wrote.

Pictures read the same in grey: series differ in hatch, marker or line style besides their colour.
"""
