"""The daemon's log: one JSON object a line on stderr, our own events and those of libraries alike."""

from __future__ import annotations

import logging
import sys

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_LAST: list[structlog.typing.Processor] = [
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(),
]


def configure_logs(level: str, member: str) -> None:
    """Log from `level` (`debug` to `critical`) upwards; every line names the member."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.contextvars.bind_contextvars(member=member)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_SHARED, *_LAST],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.contextvars.merge_contextvars, *_SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_LAST],
        )
    )
    # Libraries are heard from warnings upwards: what they do all day is their own business.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
