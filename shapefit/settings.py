"""Every number that steers a job, in one frozen dataclass per job, with its unit. No torch here: `--help` is quick."""

from dataclasses import dataclass
