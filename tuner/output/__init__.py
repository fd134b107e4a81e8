"""What a finished study gives: the answer on the console, the report and the exported config."""

from tuner.output.console import RichProgress, show_prediction, show_results
from tuner.output.export import export_run
from tuner.output.report import write_report

__all__ = ["RichProgress", "export_run", "show_prediction", "show_results", "write_report"]
