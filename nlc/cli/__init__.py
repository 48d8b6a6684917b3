"""The command line: each verb parses its flags, calls one function of the pipeline and prints. No logic here.

Products go to stdout, diagnostics to stderr. Exit codes: 0 fine, 1 the user's mistake, 2 usage, 3 ours.
"""

from __future__ import annotations

import click

from nlc.cli import gpu, options, read, run, written
from nlc.version import __version__


@click.group(cls=options.Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nlc")
@click.option("--debug", is_flag=True, help="Show tracebacks of bugs in nlc.")
def main(debug: bool) -> None:
    """A compiler for nested learning: specs of associative memories to PyTorch.

    SPEC is a shipped name (`nlc list`), a path to a YAML file, or - for standard input.
    """


for command in (
    *(written.check, written.fmt, written.new, written.schema),
    *(read.graph, read.derive, read.explain, read.list_),
    *(run.compile, run.verify, run.bench),
    *(gpu.kernels, gpu.tune),
):
    main.add_command(command)
