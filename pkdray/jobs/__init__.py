"""Jobs: a step of pkdray that a cluster runs, told in a YAML.

Pure: what the YAML says (`config`), the command line and environment that it becomes (`command`), the files that go up
(`package`), where the dashboard is (`address`). Ray's Jobs API is at the edge (`client`).
"""

from pkdray.jobs.address import dashboard_address
from pkdray.jobs.command import arguments, entrypoint, environment, job_id, resuming, submission
from pkdray.jobs.config import FIELDS, Job, JobResources, build_job, load_job
from pkdray.jobs.package import check_size, files_to_send, study_name, write_package

__all__ = [
    "FIELDS",
    "Job",
    "JobResources",
    "arguments",
    "build_job",
    "check_size",
    "dashboard_address",
    "entrypoint",
    "environment",
    "files_to_send",
    "job_id",
    "load_job",
    "resuming",
    "study_name",
    "submission",
    "write_package",
]
