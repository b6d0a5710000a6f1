"""What mlf tells: modules, plans, libraries and the rest as JSON documents and as text for people."""

from mlf.report.archives import (
    convert_document,
    convert_text,
    export_document,
    export_text,
    inspect_document,
    inspect_text,
    validate_document,
    validate_text,
)
from mlf.report.differences import diff_document, diff_text
from mlf.report.firmware import firmware_document, firmware_text
from mlf.report.libraries import arena_document, demo_text, library_text, model_document, plan_document, plan_text
from mlf.report.runs import replay_document, replay_text, run_document, run_text
from mlf.report.sizes import size_document, size_text
from mlf.report.text import render_json

__all__ = [
    "arena_document",
    "convert_document",
    "convert_text",
    "demo_text",
    "diff_document",
    "diff_text",
    "export_document",
    "export_text",
    "firmware_document",
    "firmware_text",
    "inspect_document",
    "inspect_text",
    "library_text",
    "model_document",
    "plan_document",
    "plan_text",
    "render_json",
    "replay_document",
    "replay_text",
    "run_document",
    "run_text",
    "size_document",
    "size_text",
    "validate_document",
    "validate_text",
]
